"""A training step of VQ-VAE's autoencoder on 32x32 colour pictures: network, codebook and its moving averages."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from genkern.models.vae.vqvae import Config, decoder, encoder
from genkern.nn import VectorQuantizer, pixel_likelihood

from ..definitions import compiled, of_model
from ..registry import TRAIN, Function, Inputs, Rival, Workload

CONFIG = Config(hidden=64)  # 512 codes of 64 numbers, 8x8 of them for a picture
LIKELIHOOD = pixel_likelihood(CONFIG.likelihood, CONFIG.shape[0], 256)


class Autoencoder(nn.Module):
    """Encoder, codebook, decoder; every call starts from the same codebook, so that every provider sees the same."""

    first: Tensor

    def __init__(self, config: Config):
        super().__init__()
        self.encoder, self.decoder = encoder(config), decoder(config, LIKELIHOOD.parameters_per_pixel)
        self.quantizer = VectorQuantizer(config.dim, config.codes, beta=config.beta, decay=config.decay)
        codebook = self.quantizer.codebook
        codebook.embed.copy_(torch.randn_like(codebook.embed))
        self.register_buffer("first", codebook.embed.clone())

    @torch.no_grad()
    def restore(self) -> None:
        codebook = self.quantizer.codebook
        codebook.embed.copy_(self.first)
        codebook.embed_avg.copy_(self.first)
        codebook.cluster_size.fill_(1.0)


def vectors(x: Tensor, model: Autoencoder) -> Tensor:
    z = model.encoder(x.to(model.first.dtype) * (2 / 255) - 1)
    return z / z.detach().std()  # an untrained encoder's are small beside the codes


def total(x: Tensor, quantized: Tensor, commitment: Tensor, model: Autoencoder) -> Tensor:
    nats = -LIKELIHOOD.log_prob(model.decoder(quantized), x).mean()
    return nats / (math.log(2) * x[0].numel()) + commitment


def step(x: Tensor, model: Autoencoder) -> Tensor:
    quantized, _, commitment, *_ = model.quantizer(vectors(x, model))
    return total(x, quantized, commitment, model)


class Lucidrains:
    """The same autoencoder around vector-quantize-pytorch's `VectorQuantize`, on definitions elsewhere."""

    def __init__(self) -> None:
        from vector_quantize_pytorch import VectorQuantize

        self.quantizer: Any = VectorQuantize(
            CONFIG.dim, CONFIG.codes, decay=CONFIG.decay, commitment_weight=CONFIG.beta, rotation_trick=False,
            accept_image_fmap=True, threshold_ema_dead_code=0,
        )  # fmt: skip

    def __call__(self, x: Tensor, model: Autoencoder) -> Tensor:
        codebook = self.quantizer._codebook
        with torch.no_grad():
            codebook.embed.data.copy_(model.first)
            codebook.embed_avg.data.copy_(model.first)
            codebook.cluster_size.data.fill_(1.0)
        quantized, _, commitment = self.quantizer(vectors(x, model))
        return total(x, quantized, commitment.sum(), model)


def restored(function: Function) -> Function:
    def run(x: Tensor, model: Autoencoder) -> Tensor:
        model.restore()
        return function(x, model)

    return run


def workload(batch: int, **description: Any) -> Workload:
    def make(device: torch.device, dtype: torch.dtype) -> Inputs:
        x = torch.randint(0, 256, (batch, *CONFIG.shape), dtype=torch.uint8).to(device)
        return x, Autoencoder(CONFIG).to(device, dtype)

    def run(impl: str) -> Function:
        return restored(of_model(step, impl))

    # its loss is the same; in float32 its gradients are further from the exact ones than eager's, up to 1e-4
    peer = Rival(lambda: of_model(Lucidrains(), "torch"), same_gradients=False)
    rivals = {"vector-quantize-pytorch": peer}
    name = f"training step, batch {batch} of 32x32"
    return Workload(
        name, make, run, modes=(TRAIN,), rivals=rivals, compiled=lambda: restored(compiled(step)), **description
    )


WORKLOADS = [workload(16, quick=("eager", "vector-quantize-pytorch"))]
SWEEP = [workload(batch) for batch in (1, 4, 16)]
