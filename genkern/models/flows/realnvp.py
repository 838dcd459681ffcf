"""Density estimation using Real NVP. Dinh, Sohl-Dickstein & Bengio 2017 (arXiv:1605.08803).

Affine couplings with checkerboard masks, then (after a squeeze) with channel masks, batch normalisation between them,
and half of the variables factored out at each scale (figures 3 and 4). On vectors, couplings of alternating halves.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from ...nn import AffineCoupling, Flow, FlowBatchNorm, FlowSequential, Split, Squeeze, Unsqueeze, checkerboard
from ...nn.flows.conditioners import conditioned
from ._base import FlowModel, check_halvings


@dataclass(frozen=True)
class Config:
    shape: tuple[int, ...] = (3, 32, 32)
    levels: int | None = 256
    scales: int = 2
    couplings: int = 3  # of each kind at a scale; in all, on vectors
    hidden: int = 64  # feature maps at the first scale, doubled at each squeeze; units, on vectors
    blocks: int = 8  # residual blocks of a coupling network; hidden layers, on vectors
    batch_norm: bool = True
    alpha: float | None = 0.05  # of the logit transform of the pixels (section 4.1)
    classes: int | None = None  # a Gaussian prior for each label
    context: int | None = None  # numbers that the networks see: of the label's embedding, or the caller's
    dequantization: str = "uniform"  # or "variational"
    policy: str = "store"  # what the flow keeps for its backward pass: or "checkpoint", "invert"
    every: int = 8


class BoundedScale(nn.Module):
    """Log-scale and shift from a network's features: s = g tanh(a), with a learned g for each channel (section 4.1)."""

    def __init__(self, channels: int):
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(channels))

    def forward(self, raw: Tensor) -> Tensor:
        scale, shift = raw.chunk(2, dim=1)
        return torch.cat([self.gain.view(-1, *[1] * (raw.dim() - 2)) * scale.tanh(), shift], dim=1)


class ResidualBlock(nn.Module):
    def __init__(self, channels: int, batch_norm: bool):
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            norm = nn.BatchNorm2d(channels) if batch_norm else nn.Identity()
            layers += [norm, nn.ReLU(), weight_norm(nn.Conv2d(channels, channels, 3, padding=1))]
        self.branch = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def residual_network(inputs: int, outputs: int, hidden: int, config: Config) -> nn.Module:
    """Scale and shift of ``outputs`` channels from a deep residual network with weight normalisation."""
    blocks = (ResidualBlock(hidden, config.batch_norm) for _ in range(config.blocks))
    first = weight_norm(nn.Conv2d(inputs, hidden, 3, padding=1))
    last = weight_norm(nn.Conv2d(hidden, 2 * outputs, 1))
    return conditioned([first, *blocks, nn.ReLU(), last, BoundedScale(outputs)], hidden, config.context)


def mlp(inputs: int, outputs: int, config: Config) -> nn.Module:
    """Raw scale and shift of ``outputs`` numbers from a perceptron."""
    sizes = [inputs] + [config.hidden] * config.blocks
    layers = [f for a, b in zip(sizes, sizes[1:], strict=False) for f in (nn.Linear(a, b), nn.ReLU())]
    return conditioned([*layers, nn.Linear(sizes[-1], 2 * outputs)], sizes[1], config.context)


def normalised(coupling: Flow, channels: int, config: Config) -> list[Flow]:
    return [coupling, FlowBatchNorm(channels)] if config.batch_norm else [coupling]


def checkerboards(shape: tuple[int, int, int], hidden: int, count: int, config: Config) -> list[Flow]:
    """Couplings with alternating checkerboard masks (figure 3, left)."""
    layers: list[Flow] = []
    for i in range(count):
        network = residual_network(shape[0], shape[0], hidden, config)
        coupling = AffineCoupling(network, scale="exp", mask=checkerboard(*shape, flip=i % 2 == 1))
        layers += normalised(coupling, shape[0], config)
    return layers


def channelwise(channels: int, hidden: int, config: Config) -> list[Flow]:
    """Couplings with alternating channel masks (figure 3, right)."""
    layers: list[Flow] = []
    for i in range(config.couplings):
        network = residual_network(channels // 2, channels // 2, hidden, config)
        layers += normalised(AffineCoupling(network, scale="exp", flip=i % 2 == 1), channels, config)
    return layers


def scale(shape: tuple[int, int, int], hidden: int, scales: int, config: Config) -> Flow:
    """One scale, and within it all coarser ones (section 3.6); the last one has only checkerboards."""
    channels, height, width = shape
    if scales == 1:
        layers = checkerboards(shape, hidden, config.couplings + 1, config)
    else:
        coarse = scale((2 * channels, height // 2, width // 2), 2 * hidden, scales - 1, config)
        layers = checkerboards(shape, hidden, config.couplings, config)
        layers += [Squeeze(), *channelwise(4 * channels, 2 * hidden, config), Split(rest=coarse), Unsqueeze()]
    return FlowSequential(*layers, policy=config.policy, every=config.every)


def vector_flow(size: int, config: Config) -> Flow:
    """Couplings that transform the last half and the first half in turn."""
    layers: list[Flow] = []
    for i in range(config.couplings):
        active = size // 2 if i % 2 == 0 else size - size // 2
        network = mlp(size - active, active, config)
        coupling = AffineCoupling(network, scale="tanh", bound=5.0, flip=i % 2 == 1, transformed=active)
        layers += normalised(coupling, size, config)
    return FlowSequential(*layers, policy=config.policy, every=config.every)


class RealNVP(FlowModel):
    config_class = Config

    def __init__(self, config: Config):
        super().__init__(config)
        if len(config.shape) == 1:
            if config.shape[0] < 2:
                raise ValueError(f"RealNVP: a vector must have 2 numbers or more; got shape={config.shape}.")
            self.flow = vector_flow(config.shape[0], config)
        else:
            if config.scales > 1:
                check_halvings("RealNVP", config.shape, config.scales - 1)
            channels, height, width = config.shape
            self.flow = scale((channels, height, width), config.hidden, config.scales, config)


PRESETS = {
    "realnvp": Config(),  # CIFAR-10 of section 4.1
    "realnvp-mnist": Config(shape=(1, 28, 28), hidden=32, blocks=4, alpha=1e-6),
    "realnvp-small": Config(shape=(1, 8, 8), levels=17, hidden=24, blocks=1),
    "realnvp-2d": Config(shape=(2,), levels=None, couplings=8, blocks=2, batch_norm=False, alpha=None),
}
