"""Very Deep VAEs Generalize Autoregressive Models and Can Outperform Them on Images. Child 2021 (arXiv:2011.10650).

Latents at every resolution, each drawn given all before it. An encoder goes from fine to coarse; a decoder goes back
up, and in each of its blocks (figure 3) the posterior sees the encoder's features, the prior does not. Nothing is
normalised: weights start small with depth, and steps with a gradient far beyond the usual are skipped.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, gelu, interpolate

from ... import random
from ...nn import SkipRule
from ...ops import gaussian_log_prob, reparameterize
from ._base import VAE, Inference, Latents


@dataclass(frozen=True)
class Config:
    """``encoder`` reads as ``32x11`` (eleven blocks at 32 x 32) and ``32d2`` (one that halves its result); ``decoder``
    as ``8x5`` (five blocks at 8 x 8) and ``8m4`` (one, for which what was found at 4 x 4 is enlarged and added)."""

    shape: tuple[int, ...] = (3, 32, 32)
    levels: int | None = 256
    encoder: str = "32x11,32d2,16x6,16d2,8x6,8d2,4x3,4d4,1x3"
    decoder: str = "1x1,4m1,4x2,8m4,8x5,16m8,16x10,32m16,32x21"
    width: int = 384
    latents: int = 16  # channels of z in every block
    bottleneck: float = 0.25
    bias_up_to: int = 64  # the resolutions at which a learned picture is the start
    likelihood: str = "mixture"
    free_bits: float = 0.0
    window: int = 200  # of the rule that skips steps
    skip_factor: float = 4.0


def parse(text: str) -> list[tuple[int, str, int]]:
    """``"8x2,8d2"`` to resolutions, kinds and numbers."""
    found = []
    for word in text.split(","):
        kind = next((kind for kind in "xdm" if kind in word), "")
        size, _, number = word.partition(kind) if kind else (word, "", "1")
        if not (size.isdigit() and number.isdigit()):
            raise ValueError(f"VDVAE: blocks must read like '8x2', '8d2' or '8m4'; got {word!r}.")
        found.append((int(size), kind or "x", int(number)))
    return found


def convolution(inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
    nn.init.zeros_(cast(Tensor, layer.bias))
    return layer


def scaled(layer: nn.Module, factor: float) -> None:
    cast(Tensor, layer.weight).data *= factor


class Block(nn.Module):
    """Four convolutions with a narrow middle (figure 3a); at resolutions of 1 and 2 all of them 1 x 1."""

    def __init__(self, inputs: int, middle: int, outputs: int, size: int, *, down: int = 1, residual: bool = False):
        super().__init__()
        k = 3 if size > 2 else 1
        shapes = [(inputs, middle, 1), (middle, middle, k), (middle, middle, k), (middle, outputs, 1)]
        self.layers = nn.ModuleList(convolution(i, o, kernel) for i, o, kernel in shapes)
        self.down, self.residual = down, residual

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for layer in self.layers:
            h = layer(gelu(h))
        h = x + h if self.residual else h
        return avg_pool2d(h, self.down) if self.down > 1 else h


class Encoder(nn.Module):
    """From the picture to features of every resolution."""

    def __init__(self, config: Config):
        super().__init__()
        width, blocks = config.width, []
        for size, kind, number in parse(config.encoder):
            for _ in range(number if kind == "x" else 1):
                down = number if kind == "d" else 1
                blocks.append(Block(width, int(config.bottleneck * width), width, size, down=down, residual=True))
        for block in blocks:
            scaled(block.layers[-1], math.sqrt(1 / len(blocks)))
        self.first = nn.Conv2d(config.shape[0], width, 3, padding=1)
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        x = self.first(x)
        found = {x.shape[2]: x}
        for block in self.blocks:
            x = block(x)
            found[x.shape[2]] = x  # the last of each resolution
        return found


class TopDownBlock(nn.Module):
    """A group of latents (figure 3b): a prior from what is above, a posterior that sees the encoder's features too."""

    def __init__(self, config: Config, size: int, depth: int):
        super().__init__()
        width, z = config.width, config.latents
        middle = int(config.bottleneck * width)
        self.size, self.z = size, z
        self.posterior = Block(2 * width, middle, 2 * z, size)
        self.prior = Block(width, middle, 2 * z + width, size)
        scaled(self.prior.layers[-1], 0.0)
        self.project = convolution(z, width, 1)
        self.out = Block(width, middle, width, size, residual=True)
        scaled(self.project, math.sqrt(1 / depth))
        scaled(self.out.layers[-1], math.sqrt(1 / depth))

    def forward(self, x: Tensor, choose: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """``choose(x, mean, logvar)`` gives the latents, of what is above and of the prior's parameters."""
        mean, logvar, more = self.prior(x).split([self.z, self.z, x.shape[1]], dim=1)
        z = choose(x, mean, logvar)
        return self.out(x + more + self.project(z))


class Decoder(nn.Module):
    """From learned pictures at the coarse resolutions up to features of every pixel."""

    def __init__(self, config: Config):
        super().__init__()
        self.plan: list[tuple[int, int]] = []  # resolution of each block, and the one that is enlarged for it, or 0
        for size, kind, number in parse(config.decoder):
            self.plan += [(size, number)] if kind == "m" else [(size, 0)] * number
        blocks = (TopDownBlock(config, size, len(self.plan)) for size, _ in self.plan)
        self.blocks = nn.ModuleList(blocks)
        width, starts = config.width, sorted({size for size, _ in self.plan if size <= config.bias_up_to})
        self.starts = nn.ParameterDict({str(size): torch.zeros(1, width, size, size) for size in starts})
        self.gain = nn.Parameter(torch.ones(1, width, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, width, 1, 1))

    def forward(self, n: int, choose: Callable[[int, Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        found: dict[int, Tensor] = {}
        for i, (block, (size, enlarged)) in enumerate(zip(self.blocks, self.plan, strict=True)):
            if size not in found:
                zero = self.bias.new_zeros(*self.bias.shape[:2], size, size)
                found[size] = (self.starts[str(size)] if str(size) in self.starts else zero).expand(n, -1, -1, -1)
            x = found[size]
            if enlarged:
                x = x + interpolate(found[enlarged], size=(size, size))
            found[size] = block(x, lambda x, mean, logvar, i=i: choose(i, x, mean, logvar))  # type: ignore[misc]
        return self.gain * found[self.plan[-1][0]] + self.bias


class VDVAE(VAE):
    config_class = Config
    skips_steps = True

    def __init__(self, config: Config):
        super().__init__(config)
        self._check_blocks()
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.head = nn.Conv2d(config.width, self.likelihood.parameters_per_pixel, 1)
        self.skip_rule = SkipRule(config.window, factor=config.skip_factor)

    def accepts(self, gradient_norm: Tensor) -> bool:
        return self.skip_rule(gradient_norm)

    def infer(self, x: Tensor, *, key: Tensor, sample_offset: int = 0, sampled: bool = False) -> Inference:
        features = self.encoder(self.scale(x))
        costs: list[Tensor] = []
        latents: list[Tensor] = []

        def choose(i: int, above: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
            q = self._posterior(i, above, features)
            z, kl = reparameterize(*q, mean, logvar, key=random.fold_in(key, i), sample_offset=sample_offset)
            if sampled:
                kl = gaussian_log_prob(z, q[0], 0.5 * q[1]) - gaussian_log_prob(z, mean, 0.5 * logvar)
            costs.append(kl)
            latents.append(z)
            return z

        params = self.head(self.decoder(len(x), choose))
        return Inference(self.likelihood.log_prob(params, x), torch.stack(costs, dim=1), latents)

    def encode(self, x: Tensor, *, key: Tensor | None = None, sample_offset: int = 0) -> Latents:
        features = self.encoder(self.scale(self._check(x)))
        latents: list[Tensor] = []

        def choose(i: int, above: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
            q = self._posterior(i, above, features)
            latents.append(q[0] if key is None else draw(*q, random.fold_in(key, i), 1.0, sample_offset))
            return latents[-1]

        self.decoder(len(x), choose)
        return latents

    def draw_prior(self, n: int, *, key: Tensor, temperature: float = 1.0, sample_offset: int = 0) -> Latents:
        latents: list[Tensor] = []

        def choose(i: int, above: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
            latents.append(draw(mean, logvar, random.fold_in(key, i), temperature, sample_offset))
            return latents[-1]

        self.decoder(n, choose)
        return latents

    def decode(
        self, z: Latents, *, key: Tensor | None = None, temperature: float = 1.0, sample_offset: int = 0
    ) -> Tensor:
        params = self.head(self.decoder(len(z[0]), lambda i, above, mean, logvar: z[i]))
        if key is None:
            key, temperature = random.key(0, device=params.device), 0.0
        return self.likelihood.sample(params, key=key, temperature=temperature, sample_offset=sample_offset)

    def _posterior(self, i: int, above: Tensor, features: dict[int, Tensor]) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latents of block ``i``."""
        block = cast(TopDownBlock, self.decoder.blocks[i])
        mean, logvar = block.posterior(torch.cat([above, features[block.size]], dim=1)).chunk(2, dim=1)
        return mean, logvar

    def _check_blocks(self) -> None:
        config, side = self.config, self.config.shape[1]
        encoded, size = {side}, side
        for where, kind, number in parse(config.encoder):
            if where != size or (kind == "d" and size % number):
                raise ValueError(f"VDVAE: encoder is at {size} x {size}, where {where}{kind}{number} is wanted.")
            size //= number if kind == "d" else 1
            encoded.add(size)
        decoded: list[int] = []
        for where, kind, number in parse(config.decoder):
            if kind == "d" or (kind == "m" and (number not in decoded or number >= where)):
                raise ValueError(f"VDVAE: decoder has no smaller resolution before {where}{kind}{number}.")
            decoded.append(where)
        if config.shape[1] != config.shape[2] or not set(decoded) <= encoded or decoded[-1] != side:
            wanted = f"resolutions of the encoder {sorted(encoded)}, the last of them {side}"
            raise ValueError(f"VDVAE: decoder must have {wanted}; got {decoded} for shape {config.shape}.")


def draw(mean: Tensor, logvar: Tensor, key: Tensor, temperature: float, sample_offset: int) -> Tensor:
    if temperature == 0:
        return mean
    return reparameterize(mean, logvar + 2 * math.log(temperature), key=key, sample_offset=sample_offset)[0]


PRESETS = {
    "vdvae": Config(),
    "vdvae-mnist": Config(
        shape=(1, 28, 28), encoder="28x2,28d2,14x2,14d2,7x2,7d7,1x1", decoder="1x1,7m1,7x2,14m7,14x2,28m14,28x2",
        width=64, latents=8,
    ),
    "vdvae-small": Config(
        shape=(1, 8, 8), levels=17, encoder="8x2,8d2,4x2,4d4,1x1", decoder="1x2,4m1,4x2,8m4,8x2", width=64, latents=4,
        likelihood="categorical",
    ),
}  # fmt: skip
RECIPES = {"vdvae-mnist": {"steps": 700, "batch_size": 32, "lr": 2e-3, "ema": 0.99}}
