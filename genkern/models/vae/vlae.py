"""Variational Lossy Autoencoder. Chen et al. 2017 (arXiv:1611.02731).

The decoder is a PixelCNN whose window is small on purpose: what a few neighbours tell of a pixel need not pass through
the latents, so these hold what is global, and the code is lossy (section 2.2). The prior of the latents is learned, an
autoregressive flow (section 3): its density takes one pass, a draw from it one call. Free bits keep the latents in use.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, silu

from ... import random
from ...nn import (
    MADE,
    AffineTransform,
    FlowSequential,
    GaussianLatent,
    MaskedAutoregressive,
    MaskedConv2d,
    PixelLikelihood,
)
from ...nn.autoregressive import cached
from ...nn.likelihoods import CategoricalPixels, DiscretizedMixture
from ...ops import gaussian_log_prob
from . import conv_vae
from ._base import VAE, Inference, Latents

Scale = Callable[[Tensor], Tensor]  # integer pixels to [-1, 1]
CACHED = {CategoricalPixels: "categorical", DiscretizedMixture: "mixture"}  # likelihoods that are drawn in one call
HALF_LN_2PI_E = 0.5 * (1 + math.log(2 * math.pi))


@dataclass(frozen=True)
class Config:
    shape: tuple[int, ...] = (3, 32, 32)
    levels: int | None = 256
    latents: int = 128
    channels: tuple[int, ...] = (64, 128, 256)  # of encoder and decoder, after each halving of the picture
    hidden: int = 512
    window: int = 5  # of the decoder's PixelCNN: so many columns wide, half as many rows up
    features: int = 96  # of the PixelCNN
    layers: int = 3  # of the PixelCNN, after the first; they look at the pixel itself alone
    flows: int = 2  # MADEs of the prior
    flow_hidden: int = 256
    likelihood: str = "mixture"
    free_bits: float = 8.0
    soft_free_bits: float | None = None


def prior_flow(config: Config) -> FlowSequential:
    """From latents to the noise of the prior: autoregressive, in turn in the natural and the reversed order."""
    steps = [
        MaskedAutoregressive(
            MADE(config.latents, [config.flow_hidden] * 2, outputs=2, order="reversed" if i % 2 else "natural"),
            AffineTransform("tanh", bound=3.0),
        )
        for i in range(config.flows)
    ]
    return FlowSequential(*steps)


class WindowedPixelCNN(nn.Module):
    """Every pixel given a few neighbours before it, and features ``[B, F, H, W]`` of the latents at its place.

    With heads that are a product over channels, sub-pixels see those before them; a mixture of logistics has its own.
    """

    def __init__(self, config: Config, outputs: int, joint: bool):
        super().__init__()
        self.window, self.joint = config.window, joint
        sub_pixels = 1 if joint else config.shape[0]
        F = config.features
        self.first = MaskedConv2d(config.shape[0], F, config.window, mask="A", sub_pixels=sub_pixels)
        self.layers = nn.ModuleList(
            MaskedConv2d(F, F, 1, mask="B", sub_pixels=sub_pixels) for _ in range(config.layers)
        )
        self.conditions = nn.ModuleList(nn.Conv2d(F, F, 1) for _ in range(config.layers + 1))
        self.last = MaskedConv2d(F, outputs, 1, mask="B", sub_pixels=sub_pixels)

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        return self.head(self.first(x), [condition(features) for condition in self.conditions])

    def head(self, seen: Tensor, conditions: list[Tensor]) -> Tensor:
        """What follows at each pixel, of itself alone."""
        seen = seen + conditions[0]
        for layer, condition in zip(self.layers, conditions[1:], strict=True):
            seen = seen + layer(silu(seen)) + condition
        return self.last(silu(seen))

    @torch.no_grad()
    def draw(self, h: Tensor, noise: Tensor, likelihood: PixelLikelihood, temperature: float, scale: Scale) -> Tensor:
        """Integer pixels in raster order, each from its window alone: the same as by passes over whole pictures."""
        side, up = self.window // 2, self.window // 2
        n, height, width = len(h), h.shape[2], h.shape[3]
        x = torch.zeros(n, likelihood.channels, height, width, dtype=likelihood.pixel_dtype, device=h.device)
        if head := CACHED.get(type(likelihood)):
            free = torch.ones(height, width, dtype=torch.bool, device=h.device)
            return cached(
                self, x, noise, free, levels=likelihood.levels, head=head, features=h, temperature=temperature
            )
        seen = pad(torch.zeros_like(x, dtype=h.dtype), (side, side, up, 0))  # in [-1, 1], nothing outside
        conditions = [condition(h) for condition in self.conditions]
        for i, j in itertools.product(range(height), range(width)):
            at = (..., slice(i, i + 1), slice(j, j + 1))
            here = [condition[at] for condition in conditions]
            for channel in [slice(None)] if self.joint else range(likelihood.channels):
                window = self.first(seen[:, :, i : i + up + 1, j : j + self.window])
                params = self.head(window[:, :, up:, side : side + 1], here)
                pixel = likelihood.draw(params, noise[at], temperature)[:, channel, 0, 0]
                x[:, channel, i, j] = pixel
                seen[:, channel, i + up, j + side] = scale(pixel)
        return x


class VLAE(VAE):
    config_class = Config

    def __init__(self, config: Config):
        super().__init__(config)
        if config.window < 3 or config.window % 2 == 0:
            raise ValueError(f"VLAE: window must be odd and 3 or more; got {config.window}.")
        networks = conv_vae.Config(config.shape, config.levels, config.latents, config.channels, config.hidden)
        self.encoder = conv_vae.encoder(networks, 2 * config.latents)
        self.latent = GaussianLatent()
        self.prior = prior_flow(config)
        self.decoder = conv_vae.decoder(networks, config.features)
        joint = config.likelihood == "mixture"  # it draws all channels of a pixel at once
        self.local = WindowedPixelCNN(config, self.likelihood.parameters_per_pixel, joint)

    def infer(self, x: Tensor, *, key: Tensor, sample_offset: int = 0, sampled: bool = False) -> Inference:
        pixels = self.scale(x)
        h = self.encoder(pixels)
        mean, logvar = h.chunk(2, dim=1)
        z, _ = self.latent(h, key=key, sample_offset=sample_offset)  # [B, J]
        noise, log_det = self.prior(z)
        # the prior has no closed form against q; the entropy of q has
        log_q = gaussian_log_prob(z, mean, 0.5 * logvar) if sampled else -(0.5 * logvar.float() + HALF_LN_2PI_E).sum(1)
        kl = log_q - (gaussian_log_prob(noise) + log_det)
        params = self.local(pixels, self.decoder(z))
        return Inference(self.likelihood.log_prob(params, x), kl.unsqueeze(1), z)

    def encode(self, x: Tensor, *, key: Tensor | None = None, sample_offset: int = 0) -> Latents:
        h = self.encoder(self.scale(self._check(x)))
        return h.chunk(2, dim=1)[0] if key is None else self.latent(h, key=key, sample_offset=sample_offset)[0]

    def draw_prior(self, n: int, *, key: Tensor, temperature: float = 1.0, sample_offset: int = 0) -> Latents:
        dtype = next(self.parameters()).dtype
        noise = random.normal(key, (n, self.config.latents), dtype=dtype, sample_offset=sample_offset)
        return self.prior.inverse(temperature * noise)[0]

    @torch.no_grad()
    def decode(
        self, z: Latents, *, key: Tensor | None = None, temperature: float = 1.0, sample_offset: int = 0
    ) -> Tensor:
        """Pixels of latents, one after the other, drawn: without a key by the noise of one that is always the same.

        To take the likeliest pixel each time, given those before it, would soon run into the background.
        """
        h = self.decoder(z)
        key = random.key(0, device=h.device) if key is None else key
        shape = (len(h), self.likelihood.noise_per_pixel, *self.config.shape[1:])
        noise = random.uniform(key, shape, sample_offset=sample_offset)
        return self.local.draw(h, noise, self.likelihood, temperature, self.scale)


PRESETS = {
    "vlae": Config(),
    "vlae-mnist": Config(shape=(1, 28, 28), latents=32, channels=(32, 64), hidden=256, features=64),
    "vlae-small": Config(
        shape=(1, 8, 8), levels=17, latents=16, channels=(32, 64), hidden=128, window=3, features=64, layers=2,
        flow_hidden=64, likelihood="categorical",
    ),
}  # fmt: skip
