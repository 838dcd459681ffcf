"""Auto-Encoding Variational Bayes. Kingma & Welling 2014 (arXiv:1312.6114), with convolutional networks.

A diagonal Gaussian posterior from an encoder of strided convolutions, a unit Gaussian prior, and a decoder that goes
the same way back to a distribution of every pixel, independent given the latents. The plain model of its family.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from ... import random
from ...nn import GaussianLatent
from ...ops import gaussian_log_prob
from ._base import VAE, Inference, Latents


@dataclass(frozen=True)
class Config:
    shape: tuple[int, ...] = (3, 32, 32)
    levels: int | None = 256
    latents: int = 128  # J, numbers of a code
    channels: tuple[int, ...] = (64, 128, 256)  # after each halving of the picture
    hidden: int = 512
    likelihood: str = "mixture"
    free_bits: float = 0.0
    soft_free_bits: float | None = None


def sizes(config: Config) -> list[tuple[int, int]]:
    """Height and width of the picture and after each halving."""
    found = [(config.shape[1], config.shape[2])]
    for _ in config.channels:
        found.append(((found[-1][0] + 1) // 2, (found[-1][1] + 1) // 2))
    return found


def encoder(config: Config, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    inputs = config.shape[0]
    for channels in config.channels:
        layers += [nn.Conv2d(inputs, channels, 3, stride=2, padding=1), nn.SiLU()]
        layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.SiLU()]
        inputs = channels
    features = inputs * math.prod(sizes(config)[-1])
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(features, config.hidden), nn.SiLU(), nn.Linear(config.hidden, outputs)
    )


def decoder(config: Config, outputs: int) -> nn.Sequential:
    """The same sizes back: every doubling is cut to the size that was halved."""
    *larger, smallest = sizes(config)
    inputs = config.channels[-1]
    layers: list[nn.Module] = [nn.Linear(config.latents, config.hidden), nn.SiLU()]
    layers += [nn.Linear(config.hidden, inputs * math.prod(smallest)), nn.SiLU(), nn.Unflatten(1, (inputs, *smallest))]
    for size, channels in zip(reversed(larger), reversed((config.channels[0], *config.channels[:-1])), strict=True):
        layers += [nn.Upsample(size), nn.Conv2d(inputs, channels, 3, padding=1), nn.SiLU()]
        layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.SiLU()]
        inputs = channels
    return nn.Sequential(*layers, nn.Conv2d(inputs, outputs, 1))


class ConvVAE(VAE):
    config_class = Config

    def __init__(self, config: Config):
        super().__init__(config)
        self.encoder = encoder(config, 2 * config.latents)
        self.latent = GaussianLatent()
        self.decoder = decoder(config, self.likelihood.parameters_per_pixel)

    def infer(self, x: Tensor, *, key: Tensor, sample_offset: int = 0, sampled: bool = False) -> Inference:
        h = self.encoder(self.scale(x))
        z, kl = self.latent(h, key=key, sample_offset=sample_offset)  # [B, J], [B]
        if sampled:
            mean, logvar = h.chunk(2, dim=1)
            kl = gaussian_log_prob(z, mean, 0.5 * logvar) - gaussian_log_prob(z)
        return Inference(self.likelihood.log_prob(self.decoder(z), x), kl.unsqueeze(1), z)

    def encode(self, x: Tensor, *, key: Tensor | None = None, sample_offset: int = 0) -> Latents:
        h = self.encoder(self.scale(self._check(x)))
        return h.chunk(2, dim=1)[0] if key is None else self.latent(h, key=key, sample_offset=sample_offset)[0]

    def draw_prior(self, n: int, *, key: Tensor, temperature: float = 1.0, sample_offset: int = 0) -> Latents:
        dtype = next(self.parameters()).dtype
        return temperature * random.normal(key, (n, self.config.latents), dtype=dtype, sample_offset=sample_offset)

    def decode(
        self, z: Latents, *, key: Tensor | None = None, temperature: float = 1.0, sample_offset: int = 0
    ) -> Tensor:
        params = self.decoder(z)
        if key is None:
            key, temperature = random.key(0, device=params.device), 0.0
        return self.likelihood.sample(params, key=key, temperature=temperature, sample_offset=sample_offset)


PRESETS = {
    "conv-vae": Config(),
    "conv-vae-mnist": Config(shape=(1, 28, 28), latents=32, channels=(32, 64), hidden=256),
    "conv-vae-small": Config(
        shape=(1, 8, 8), levels=17, latents=16, channels=(32, 64), hidden=128, likelihood="categorical"
    ),
}
