"""Glow: Generative Flow with Invertible 1x1 Convolutions. Kingma & Dhariwal 2018 (arXiv:1807.03039).

A multi-scale flow (figure 2): at each of L levels the picture is squeezed and goes through K steps, each an activation
normalisation, an invertible 1x1 convolution and an affine coupling; then half of the channels leave as latents under a
Gaussian that the other half predicts. A vector is a picture of one site: one level of K steps, with no squeeze.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...nn import (
    AdditiveCoupling,
    AffineCoupling,
    ChannelAffine,
    Flatten,
    Flow,
    FlowSequential,
    Inverse,
    InvertibleConv1x1,
    Split,
    Squeeze,
    Unsqueeze,
)
from ...nn.flows.conditioners import at_every_site, conditioned
from ._base import FlowModel, check_halvings


@dataclass(frozen=True)
class Config:
    shape: tuple[int, ...] = (3, 32, 32)
    levels: int | None = 256
    scales: int = 3  # L
    steps: int = 32  # K
    hidden: int = 512  # channels inside a coupling network
    coupling: str = "affine"  # or "additive"
    conv: str = "plu"  # or "free": section 3.2
    dropout: float = 0.0  # in the coupling networks
    alpha: float | None = None  # of a logit transform of the pixels
    classes: int | None = None  # a Gaussian prior for each label
    context: int | None = None  # numbers that the networks see: of the label's embedding, or the caller's
    dequantization: str = "uniform"  # or "variational"
    policy: str = "store"  # what the flow keeps for its backward pass: or "checkpoint", "invert"
    every: int = 8


class ZeroConv(nn.Module):
    """A convolution that starts at zero, with a learned gain e^{3 g} of each channel."""

    def __init__(self, inputs: int, outputs: int, context: int | None = None, kernel_size: int = 3):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel_size, padding=kernel_size // 2)
        self.projection = None if context is None else nn.Linear(context, outputs, bias=False)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)
        self.log_gain = nn.Parameter(torch.zeros(outputs, 1, 1))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        h = self.conv(x)
        if self.projection is not None:
            h = h + at_every_site(self.projection, context, x.dim())
        return h * torch.exp(3 * self.log_gain)


def coupling_network(inputs: int, outputs: int, config: Config) -> nn.Module:
    """Three convolutions, 3x3, 1x1 and 3x3, the last of which starts at zero (section 4); a vector has one site."""
    size = 3 if len(config.shape) == 3 else 1
    first, centre = (
        nn.Conv2d(inputs, config.hidden, size, padding=size // 2),
        nn.Conv2d(config.hidden, config.hidden, 1),
    )
    for conv in (first, centre):
        nn.init.normal_(conv.weight, std=0.05)
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    relu, drop = nn.ReLU(inplace=True), nn.Dropout2d(config.dropout) if config.dropout else nn.Identity()
    layers = [first, relu, centre, relu, drop, ZeroConv(config.hidden, outputs, kernel_size=size)]
    return conditioned(layers, config.hidden, config.context)


def coupling(channels: int, config: Config) -> Flow:
    passive, active = channels - channels // 2, channels // 2
    if config.coupling == "affine":
        return AffineCoupling(coupling_network(passive, 2 * active, config), scale="sigmoid")
    return AdditiveCoupling(coupling_network(passive, active, config))


def step(channels: int, config: Config) -> Flow:
    """One step of flow (figure 2a); the activation normalisation is folded into the convolution that follows it."""
    last = coupling(channels, config)  # made first: the order of the draws decides which weights a seed gives
    return FlowSequential(InvertibleConv1x1(channels, config.conv, actnorm=True), last)


def level(channels: int, scales: int, config: Any, step: Callable[[int, Any], Flow] = step) -> Flow:
    """Squeeze and K steps; half of the channels leave as latents, the others go on to the next level (figure 2b)."""
    channels = 4 * channels
    if scales == 1:
        leave: Flow = ChannelAffine(channels)  # the last latents: a learned mean and deviation of each channel
    else:
        kept, left = channels - channels // 2, channels // 2
        leave = Split(ZeroConv(kept, 2 * left, config.context), level(kept, scales - 1, config, step))
    steps = (step(channels, config) for _ in range(config.steps))
    return FlowSequential(Squeeze(), *steps, leave, Unsqueeze(), policy=config.policy, every=config.every)


def one_site(size: int, config: Any, step: Callable[[int, Any], Flow] = step) -> Flow:
    """K steps on a vector."""
    as_channels = Flatten((size, 1, 1))
    steps = (step(size, config) for _ in range(config.steps))
    layers = [Inverse(as_channels), *steps, ChannelAffine(size), as_channels]
    return FlowSequential(*layers, policy=config.policy, every=config.every)


def architecture(model: str, config: Any, step: Callable[[int, Any], Flow] = step) -> Flow:
    """The levels of a picture, or the one site of a vector."""
    if config.coupling not in ("affine", "additive"):
        raise ValueError(f"{model}: coupling must be 'affine' or 'additive'; got {config.coupling!r}.")
    if len(config.shape) != 1:
        check_halvings(model, config.shape, config.scales)
        return level(config.shape[0], config.scales, config, step)
    if config.shape[0] < 2:
        raise ValueError(f"{model}: a vector must have 2 numbers or more; got shape={config.shape}.")
    return one_site(config.shape[0], config, step)


class Glow(FlowModel):
    config_class = Config

    def __init__(self, config: Config):
        super().__init__(config)
        self.flow = architecture("Glow", config)


PRESETS = {
    "glow": Config(),  # CIFAR-10 of table 2
    "glow-mnist": Config(shape=(1, 28, 28), scales=2, steps=16, hidden=256),
    # 2.24 held-out bits/dim on the 8x8 digits: AdamW at 3e-3, cosine to 0 over 1800 batches of 64, averaged weights
    "glow-small": Config(shape=(1, 8, 8), levels=17, scales=2, steps=4, hidden=64, dropout=0.1),
    "glow-2d": Config(shape=(2,), levels=None, steps=12, hidden=64),
}
