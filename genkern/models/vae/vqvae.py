"""Neural Discrete Representation Learning (VQ-VAE). van den Oord et al. 2017 (arXiv:1711.00937).

An encoder turns a picture into a small map of vectors, each of which is replaced by the nearest of K codes; a decoder
draws the picture from these. An autoregressive prior over the maps of codes makes it a generative model. Autoencoder
and prior train in one run: codes are integers, so nothing of the prior's loss reaches the encoder.

Codes follow moving averages (appendix A.1), and those that nothing uses are revived. A posterior that is one code has
no entropy, so the bound is that of the codes alone: log p(x) >= log p(x | k(x)) + log p(k(x)).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ... import random
from ...nn import VectorQuantizer
from ...ops import discretized_mixture_logistics, sample_discretized_mixture_logistics, vq_assign
from .._base import Batch, GenerativeModel, Loss, as_batch
from ..autoregressive.sparse_transformer import Config as PriorConfig
from ..autoregressive.sparse_transformer import SparseTransformer

PAIRS = 32  # of data and reconstruction in a picture
MIN_LOG_SCALE = -5.0  # of a pixel's logistic: sharper ones chase the noise of the encoder


@dataclass(frozen=True)
class Config:
    shape: tuple[int, ...] = (3, 32, 32)
    levels: int | None = 256
    codes: int = 512  # K
    dim: int = 64  # D, features of a code
    halvings: int = 2  # of the picture's sides, from pixels to codes
    hidden: int = 128
    blocks: int = 2  # residual blocks of encoder and of decoder
    beta: float = 0.25  # weight of the commitment term
    decay: float = 0.99  # of the moving averages
    threshold: float = 1.0  # codes whose moving count falls below are revived; 0: never
    rotation_trick: bool = False  # gradients turn with the vector; else straight through
    prior_layers: int = 8
    prior_width: int = 128
    prior_heads: int = 4


class ResidualBlock(nn.Module):
    """ReLU, 3x3 convolution, ReLU, 1x1 convolution (section 4.1)."""

    def __init__(self, hidden: int):
        super().__init__()
        self.branch = nn.Sequential(
            nn.ReLU(), nn.Conv2d(hidden, hidden, 3, padding=1), nn.ReLU(), nn.Conv2d(hidden, hidden, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def encoder(config: Config) -> nn.Sequential:
    """From pixels in [-1, 1] to vectors, ``[B, D, H', W']``."""
    layers: list[nn.Module] = []
    channels = config.shape[0]
    for _ in range(config.halvings):
        layers += [nn.Conv2d(channels, config.hidden, 4, stride=2, padding=1), nn.ReLU()]
        channels = config.hidden
    layers += [nn.Conv2d(channels, config.hidden, 3, padding=1)]
    layers += [ResidualBlock(config.hidden) for _ in range(config.blocks)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(config.hidden, config.dim, 1))


def decoder(config: Config) -> nn.Sequential:
    """From codes to one discretised logistic for every sub-pixel, ``[B, 3 or 10, H, W]``."""
    layers: list[nn.Module] = [nn.Conv2d(config.dim, config.hidden, 3, padding=1)]
    layers += [ResidualBlock(config.hidden) for _ in range(config.blocks)]
    for _ in range(config.halvings):
        layers += [nn.ReLU(), nn.ConvTranspose2d(config.hidden, config.hidden, 4, stride=2, padding=1)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(config.hidden, 3 if config.shape[0] == 1 else 10, 1))


class VQVAE(GenerativeModel):
    config_class = Config

    def __init__(self, config: Config):
        super().__init__(config)
        step = 2**config.halvings
        if len(config.shape) != 3 or config.shape[0] not in (1, 3) or any(side % step for side in config.shape[1:]):
            raise ValueError(f"VQVAE: shape must be 1 or 3 channels of sides divisible by {step}; got {config.shape}.")
        if config.levels is None or config.levels < 2:
            raise ValueError(f"VQVAE: levels must be 2 or more; got {config.levels}.")
        self.code_shape = (config.shape[1] // step, config.shape[2] // step)
        self.encoder = encoder(config)
        self.quantizer = VectorQuantizer(
            config.dim, config.codes, beta=config.beta, decay=config.decay, threshold=config.threshold,
            rotation_trick=config.rotation_trick, kmeans_init=True,
        )  # fmt: skip
        self.decoder = decoder(config)
        self.prior = SparseTransformer(
            PriorConfig(
                (1, *self.code_shape), config.codes, attention="dense", layers=config.prior_layers,
                width=config.prior_width, heads=config.prior_heads, dropout=0.1, recompute=False,
            )
        )  # fmt: skip

    def initialize(self, batch: Batch | Tensor, *, key: Tensor | None = None) -> None:
        """K-means of the first batch's vectors."""
        with torch.no_grad():
            self.quantizer(self.encoder(self.scale(as_batch(batch).x)))

    def loss(self, batch: Batch | Tensor, *, key: Tensor | None = None, sample_offset: int = 0) -> Loss:
        """Bits per dimension of pixels given codes, of codes under the prior, and the quantiser's loss."""
        x = as_batch(batch).x
        quantized, indices, commitment, perplexity, usage = self.quantizer(self.encoder(self.scale(x)))
        unit = 1 / (math.log(2) * math.prod(self.config.shape))
        pixels = unit * self.nats(x, quantized).mean()
        codes = -unit * self.prior.log_prob(indices.unsqueeze(1), key=key, sample_offset=sample_offset).mean()
        terms = {"pixels": pixels, "codes": codes, "commitment": commitment}
        if perplexity is not None:
            terms |= {"perplexity": perplexity, "usage": usage}
        return Loss(pixels + codes + commitment, {name: value.detach() for name, value in terms.items()})

    def elbo(self, x: Tensor, *, key: Tensor | None = None) -> Tensor:
        """A lower bound of the log-probability of integer pixels in nats, ``[B]``."""
        indices = self.encode(x)
        return self.prior.log_prob(indices.unsqueeze(1)) - self.nats(x, self.quantizer.codes(indices))

    @torch.no_grad()
    def sample(self, n: int, *, key: Tensor, temperature: float = 1.0, sample_offset: int = 0) -> Tensor:
        """Pictures of codes drawn from the prior: the mean of every pixel, ``[n, C, H, W]``.

        Args:
            temperature: of the prior over codes.
        """
        indices = self.prior.sample(n, key=random.fold_in(key, 0), temperature=temperature, sample_offset=sample_offset)
        return self.decode(indices.long().squeeze(1))

    def encode(self, x: Tensor) -> Tensor:
        """The codes of pictures, int64 ``[B, H', W']``; the codebook stays as it is."""
        return vq_assign(self.encoder(self.scale(x)), self.quantizer.codebook.embed[0], dim=1).indices

    @torch.no_grad()
    def decode(self, indices: Tensor) -> Tensor:
        """The mean picture of codes ``[B, H', W']``, as integer pixels."""
        params = self.decoder(self.quantizer.codes(indices))
        channels, levels = self.config.shape[0], self.config.levels
        return sample_discretized_mixture_logistics(
            params, channels=channels, levels=levels, temperature=0.0, min_log_scale=MIN_LOG_SCALE,
            key=random.key(0, device=indices.device),  # the mean takes no noise
        )  # fmt: skip

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """The picture that the decoder makes of the codes of ``x``."""
        return self.decode(self.encode(x))

    def pictures(self, x: Tensor, *, key: Tensor) -> dict[str, Tensor]:
        """``reconstructions``: pairs of data and what comes back."""
        pairs = torch.stack([x[:PAIRS], self.reconstruct(x[:PAIRS]).to(x)], dim=1)
        return {"reconstructions": pairs.flatten(0, 1)}

    def nats(self, x: Tensor, quantized: Tensor) -> Tensor:
        """Negative log-probability of pixels given codes, ``[B]``."""
        return discretized_mixture_logistics(
            self.decoder(quantized), x, levels=self.config.levels, min_log_scale=MIN_LOG_SCALE, reduction="sum"
        )

    def scale(self, x: Tensor) -> Tensor:
        """Integer pixels to [-1, 1]."""
        return x.to(next(self.parameters()).dtype) * (2 / (self.config.levels - 1)) - 1


PRESETS = {
    "vqvae": Config(),
    "vqvae-mnist": Config((1, 28, 28), codes=128, dim=32, hidden=64, prior_layers=4, prior_width=64),
    "vqvae-small": Config(
        (1, 8, 8), 17, codes=32, dim=16, halvings=1, hidden=48, decay=0.95, prior_layers=3, prior_width=64
    ),
}
