"""Generating Diverse High-Fidelity Images with VQ-VAE-2. Razavi et al. 2019 (arXiv:1906.00446).

Two maps of codes: a coarse one for what a picture is, and a fine one for its details, quantised given the coarse one
(algorithm 1). The decoder sees both. Priors: p(top) and p(bottom | top), here one transformer over the codes of the
top map followed by those of the bottom one, where the paper has two networks. All is trained in one run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ... import random
from ...nn import PixelLikelihood, VectorQuantizer, pixel_likelihood
from ...ops import vq_assign
from .._base import Batch, GenerativeModel, Loss, as_batch
from ..autoregressive.sparse_transformer import Config as PriorConfig
from ..autoregressive.sparse_transformer import SparseTransformer
from . import vqvae
from .vqvae import PAIRS, decoder, encoder


@dataclass(frozen=True)
class Config(vqvae.Config):
    """As of a VQ-VAE, whose map is the bottom one; the top map has half its sides and as many codes."""

    prior_layers: int = 12


class VQVAE2(GenerativeModel):
    config_class = Config

    def __init__(self, config: Config):
        super().__init__(config)
        step = 2 ** (config.halvings + 1)
        if len(config.shape) != 3 or config.shape[0] not in (1, 3) or any(side % step for side in config.shape[1:]):
            raise ValueError(f"VQVAE2: shape must be 1 or 3 channels of sides divisible by {step}; got {config.shape}.")
        if config.levels is None or config.levels < 2:
            raise ValueError(f"VQVAE2: levels must be 2 or more; got {config.levels}.")
        self.top_shape = (config.shape[1] // step, config.shape[2] // step)
        self.bottom_shape = (2 * self.top_shape[0], 2 * self.top_shape[1])
        self.bottom_encoder = encoder(config)
        self.top_encoder = encoder(replace(config, shape=(config.dim, *self.bottom_shape), halvings=1))
        self.top_decoder = nn.ConvTranspose2d(config.dim, config.dim, 4, stride=2, padding=1)
        self.merge = nn.Conv2d(2 * config.dim, config.dim, 1)
        self.top, self.bottom = (
            VectorQuantizer(
                config.dim, config.codes, beta=config.beta, decay=config.decay, threshold=config.threshold,
                rotation_trick=config.rotation_trick, kmeans_init=True,
            )
            for _ in range(2)
        )  # fmt: skip
        self.up = nn.ConvTranspose2d(config.dim, config.dim, 4, stride=2, padding=1)
        self.likelihood: PixelLikelihood = pixel_likelihood(config.likelihood, config.shape[0], config.levels)
        self.decoder = decoder(replace(config, dim=2 * config.dim), self.likelihood.parameters_per_pixel)
        self.tokens = 5 * math.prod(self.top_shape)
        self.prior = SparseTransformer(
            PriorConfig(
                (1, 1, self.tokens), config.codes, attention="dense", layers=config.prior_layers,
                width=config.prior_width, heads=config.prior_heads, dropout=0.1, recompute=False,
            )
        )  # fmt: skip

    def initialize(self, batch: Batch | Tensor, *, key: Tensor | None = None) -> None:
        """K-means of the first batch's vectors, for the top map first."""
        with torch.no_grad():
            h = self.bottom_encoder(self.scale(as_batch(batch).x))
            self.bottom(self.conditioned(h, self.top(self.top_encoder(h)).quantized))

    def loss(self, batch: Batch | Tensor, *, key: Tensor | None = None, sample_offset: int = 0) -> Loss:
        """Bits per dimension of pixels given codes, of codes under the prior, and the quantisers' losses."""
        x = as_batch(batch).x
        h = self.bottom_encoder(self.scale(x))
        top = self.top(self.top_encoder(h))
        bottom = self.bottom(self.conditioned(h, top.quantized))
        unit = 1 / (math.log(2) * math.prod(self.config.shape))
        pixels = unit * self.nats(x, top.quantized, bottom.quantized).mean()
        sequence = self.sequence(top.indices, bottom.indices)
        codes = -unit * self.prior.log_prob(sequence, key=key, sample_offset=sample_offset).mean()
        commitment = top.loss + bottom.loss
        terms = {"pixels": pixels, "codes": codes, "commitment": commitment}
        for name, found in (("top", top), ("bottom", bottom)):
            if found.perplexity is not None:
                terms[f"{name}_perplexity"] = found.perplexity
        return Loss(pixels + codes + commitment, {name: value.detach() for name, value in terms.items()})

    def elbo(self, x: Tensor, *, key: Tensor | None = None) -> Tensor:
        """A lower bound of the log-probability of integer pixels in nats, ``[B]``."""
        top, bottom = self.encode(x)
        given = -self.nats(x, self.top.codes(top), self.bottom.codes(bottom))
        return given + self.prior.log_prob(self.sequence(top, bottom))

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
        top, bottom = drawn.long().flatten(1).split([self.tokens // 5, self.tokens - self.tokens // 5], dim=1)
        codes = top.unflatten(1, self.top_shape), bottom.unflatten(1, self.bottom_shape)
        return self.decode(*codes, key=random.fold_in(key, 1), temperature=of_pixels, sample_offset=sample_offset)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The codes of the top and of the bottom map, int64 ``[B, H', W']`` each; the codebooks stay as they are."""
        h = self.bottom_encoder(self.scale(x))
        top = vq_assign(self.top_encoder(h), self.top.codebook.embed[0], dim=1).indices
        vectors = self.conditioned(h, self.top.codes(top))
        return top, vq_assign(vectors, self.bottom.codebook.embed[0], dim=1).indices

    @torch.no_grad()
    def decode(
        self,
        top: Tensor,
        bottom: Tensor,
        *,
        key: Tensor | None = None,
        temperature: float = 1.0,
        sample_offset: int = 0,
    ) -> Tensor:
        """Integer pixels of codes: drawn, or without a key the likeliest."""
        params = self.parameters_of_pixels(self.top.codes(top), self.bottom.codes(bottom))
        if key is None:
            key, temperature = random.key(0, device=params.device), 0.0
        return self.likelihood.sample(params, key=key, temperature=temperature, sample_offset=sample_offset)

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """The picture that the decoder makes of the codes of ``x``."""
        return self.decode(*self.encode(x))

    def pictures(self, x: Tensor, *, key: Tensor) -> dict[str, Tensor]:
        """``reconstructions``: pairs of data and what comes back."""
        pairs = torch.stack([x[:PAIRS], self.reconstruct(x[:PAIRS]).to(x)], dim=1)
        return {"reconstructions": pairs.flatten(0, 1)}

    # -- parts --------------------------------------------------------------------------------------------------

    def conditioned(self, h: Tensor, top: Tensor) -> Tensor:
        """What the bottom quantiser sees: the encoder's map beside what the top codes say of it."""
        return self.merge(torch.cat([self.top_decoder(top), h], dim=1))

    def parameters_of_pixels(self, top: Tensor, bottom: Tensor) -> Tensor:
        return self.decoder(torch.cat([self.up(top), bottom], dim=1))

    def nats(self, x: Tensor, top: Tensor, bottom: Tensor) -> Tensor:
        """Negative log-probability of pixels given both maps of codes, ``[B]``."""
        return -self.likelihood.log_prob(self.parameters_of_pixels(top, bottom), x)

    def sequence(self, top: Tensor, bottom: Tensor) -> Tensor:
        """Both maps as the prior reads them, ``[B, 1, 1, tokens]``."""
        return torch.cat([top.flatten(1), bottom.flatten(1)], dim=1)[:, None, None]

    def scale(self, x: Tensor) -> Tensor:
        """Integer pixels to [-1, 1]."""
        return x.to(next(self.parameters()).dtype) * (2 / (self.config.levels - 1)) - 1


PRESETS = {
    "vqvae2": Config(),
    "vqvae2-mnist": Config(
        (1, 28, 28), codes=128, dim=32, halvings=1, hidden=48, prior_layers=4, prior_width=64
    ),
    "vqvae2-small": Config(
        (1, 8, 8), 17, codes=64, dim=16, hidden=48, decay=0.95, likelihood="logistic", prior_layers=3, prior_width=64
    ),
}  # fmt: skip
RECIPES = {"vqvae2-small": {"steps": 1200, "lr": 1.5e-3}}
