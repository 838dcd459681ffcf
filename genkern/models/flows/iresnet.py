"""Invertible residual networks. Behrmann, Grathwohl, Chen, Duvenaud & Jacobsen 2019 (arXiv:1811.00995).

Residual blocks x + g(x) whose convolutions have a spectral norm below one (section 2), so that the block has an inverse
by iteration (algorithm 1) and a log-determinant by a truncated power series of traces (section 3, algorithm 2).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ...nn import (
    ActNorm,
    ExactLogDet,
    Flow,
    FlowSequential,
    PowerSeries,
    ResidualFlow,
    SpectralConv2d,
    SpectralLinear,
    Squeeze,
)
from ...nn.flows.conditioners import conditioned
from ._base import FlowModel, check_halvings, gaussian_base


@dataclass(frozen=True)
class Config:
    shape: tuple[int, ...] = (3, 32, 32)
    levels: int | None = 256
    scales: int = 3
    blocks: int = 16  # at each scale; in all, on vectors
    hidden: int = 512
    depth: int = 3  # layers of a block on vectors; convolutions of a block are 3x3, 1x1, 3x3
    bound: float = 0.9  # c, of the spectral norm of every layer
    iterations: int = 1  # of the power method, for each step
    terms: int = 5  # of the series in training; None: the exact determinant
    eval_terms: int = 20
    exact: bool = False  # the whole Jacobian instead of the series: for two dimensions
    alpha: float | None = 0.05
    classes: int | None = None  # a Gaussian prior for each label
    context: int | None = None  # numbers that the networks see: of the label's embedding, or the caller's
    dequantization: str = "uniform"  # or "variational"
    policy: str = "store"  # what the flow keeps for its backward pass: or "checkpoint", "invert"
    every: int = 8


def perceptron(size: int, config: Config) -> nn.Module:
    sizes = [size, *[config.hidden] * (config.depth - 1), size]
    layers: list[nn.Module] = []
    for a, b in zip(sizes, sizes[1:], strict=False):
        layers += [nn.ELU(), SpectralLinear(a, b, bound=config.bound, iterations=config.iterations)]
    return conditioned(layers[1:], sizes[1], config.context)


def bottleneck(channels: int, size: tuple[int, int], config: Config, *, first: bool) -> nn.Module:
    """ELU, 3x3, ELU, 1x1, ELU, 3x3 (section 5.1); the first block of all begins with the convolution."""
    layers: list[nn.Module] = []
    widths = [(channels, config.hidden, 3), (config.hidden, config.hidden, 1), (config.hidden, channels, 3)]
    for a, b, kernel in widths:
        layers += [nn.ELU(), SpectralConv2d(a, b, kernel, size, bound=config.bound, iterations=config.iterations)]
    if first:
        return conditioned(layers[1:], config.hidden, config.context)
    return conditioned(layers, channels, config.context)


class IResNet(FlowModel):
    config_class = Config

    def __init__(self, config: Config):
        super().__init__(config)
        self.flow = FlowSequential(*self._layers(config), policy=config.policy, every=config.every)

    def _layers(self, config: Config) -> list[Flow]:
        if len(config.shape) == 1:
            size = config.shape[0]
            return [
                layer
                for _ in range(config.blocks)
                for layer in (ActNorm(size), self._block(perceptron(size, config), config))
            ]
        if config.scales > 1:
            check_halvings("IResNet", config.shape, config.scales - 1)
        layers: list[Flow] = []
        channels, height, width = config.shape
        for scale in range(config.scales):
            if scale > 0:
                layers.append(Squeeze())
                channels, height, width = 4 * channels, height // 2, width // 2
            for _ in range(config.blocks):
                g = bottleneck(channels, (height, width), config, first=not layers)
                layers += [ActNorm(channels), self._block(g, config)]
        self.prior = gaussian_base((channels, height, width), config.classes)
        return layers

    def _block(self, g: nn.Module, config: Config) -> Flow:
        if config.exact:
            return ResidualFlow(g, log_det=ExactLogDet())
        train, evaluate = PowerSeries(config.terms), PowerSeries(config.eval_terms)
        return ResidualFlow(g, log_det=train, evaluation=evaluate, recompute=config.policy != "store")


PRESETS = {
    "iresnet": Config(),  # CIFAR-10 of section 5.2
    "iresnet-mnist": Config(shape=(1, 28, 28), blocks=8, hidden=32, alpha=1e-6),
    "iresnet-small": Config(shape=(1, 8, 8), levels=17, scales=2, blocks=4, hidden=24),
    "iresnet-2d": Config(shape=(2,), levels=None, blocks=12, hidden=64, exact=True, alpha=None),
}
