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
from ...nn import PixelLikelihood, VectorQuantizer, pixel_likelihood
from ...ops import vq_assign
from .._base import Batch, GenerativeModel, Loss, as_batch
from ..autoregressive.sparse_transformer import Config as PriorConfig
from ..autoregressive.sparse_transformer import SparseTransformer

PAIRS = 32  # of data and reconstruction in a picture


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
    likelihood: str = "mixture"  # of the pixels given codes: the name of a head of `genkern.nn.likelihoods`
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


def decoder(config: Config, outputs: int) -> nn.Sequential:
    """From codes to what the likelihood of the pixels needs, ``[B, outputs, H, W]``."""
    layers: list[nn.Module] = [nn.Conv2d(config.dim, config.hidden, 3, padding=1)]
    layers += [ResidualBlock(config.hidden) for _ in range(config.blocks)]
    for _ in range(config.halvings):
        layers += [nn.ReLU(), nn.ConvTranspose2d(config.hidden, config.hidden, 4, stride=2, padding=1)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(config.hidden, outputs, 1))


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
        self.likelihood: PixelLikelihood = pixel_likelihood(config.likelihood, config.shape[0], config.levels)
        self.decoder = decoder(config, self.likelihood.parameters_per_pixel)
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
    def sample(
        self,
        n: int,
        *,
        key: Tensor,
        temperature: float = 1.0,
        pixel_temperature: float | None = None,
        sample_offset: int = 0,
    ) -> Tensor:
        """Pictures of codes drawn from the prior, ``[n, C, H, W]``.

        Args:
            temperature: of the prior over codes.
            pixel_temperature: of the pixels given the codes; None: the same; 0: the likeliest.
        """
        of_pixels = temperature if pixel_temperature is None else pixel_temperature
        drawn = self.prior.sample(n, key=random.fold_in(key, 0), temperature=temperature, sample_offset=sample_offset)
        codes, for_pixels = drawn.long().squeeze(1), random.fold_in(key, 1)
        return self.decode(codes, key=for_pixels, temperature=of_pixels, sample_offset=sample_offset)

    def encode(self, x: Tensor) -> Tensor:
        """The codes of pictures, int64 ``[B, H', W']``; the codebook stays as it is."""
        return vq_assign(self.encoder(self.scale(x)), self.quantizer.codebook.embed[0], dim=1).indices

    @torch.no_grad()
    def decode(
        self, indices: Tensor, *, key: Tensor | None = None, temperature: float = 1.0, sample_offset: int = 0
    ) -> Tensor:
        """Integer pixels of codes ``[B, H', W']``: drawn, or without a key the likeliest."""
        params = self.decoder(self.quantizer.codes(indices))
        if key is None:
            key, temperature = random.key(0, device=params.device), 0.0
        return self.likelihood.sample(params, key=key, temperature=temperature, sample_offset=sample_offset)

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
        return -self.likelihood.log_prob(self.decoder(quantized), x)

    def scale(self, x: Tensor) -> Tensor:
        """Integer pixels to [-1, 1]."""
        return x.to(next(self.parameters()).dtype) * (2 / (self.config.levels - 1)) - 1


PRESETS = {
    "vqvae": Config(),
    "vqvae-mnist": Config((1, 28, 28), codes=64, dim=32, hidden=64, threshold=6.0, prior_layers=4, prior_width=64),
    "vqvae-small": Config(
        (1, 8, 8), 17, codes=32, dim=16, halvings=1, hidden=48, decay=0.95, likelihood="logistic", prior_layers=3,
        prior_width=64,
    ),
}  # fmt: skip
RECIPES = {"vqvae-mnist": {"steps": 1000}, "vqvae-small": {"steps": 3000, "lr": 1e-3}}
