"""Residual flows for invertible generative modeling. Chen, Behrmann, Duvenaud & Jacobsen 2019 (arXiv:1906.02735).

An i-ResNet with an unbiased log-determinant: a Russian roulette over the power series (eq. 6), its gradient as a
Neumann series in constant memory (eq. 8), and LipSwish units, whose second derivative does not vanish (section 3.2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...nn import (
    ActNorm,
    ExactLogDet,
    Flatten,
    Flow,
    FlowSequential,
    LipSwish,
    ResidualFlow,
    RussianRoulette,
    SpectralConv2d,
    SpectralLinear,
    Squeeze,
)
from ...nn.flows.conditioners import conditioned
from ...nn.flows.residual import mean_and_error, several_draws
from ._base import FlowModel, check_halvings, gaussian_base


@dataclass(frozen=True)
class Config:
    shape: tuple[int, ...] = (3, 32, 32)
    levels: int | None = 256
    scales: int = 3
    blocks: int = 16  # at each scale; in all, on vectors
    hidden: int = 512
    depth: int = 3  # layers of a block on vectors; convolutions of a block are 3x3, 1x1, 3x3
    dense_blocks: int = 4  # at the end, on pictures
    dense_hidden: int = 128
    bound: float = 0.98  # of the spectral norm of every layer
    iterations: int = 1  # of the power method, for each step
    terms: int = 2  # before the roulette, in training
    eval_terms: int = 20  # the same in evaluation
    exact: bool = False  # the whole Jacobian instead: for few dimensions, where it is cheaper than the series
    p: float = 0.5  # of the geometric distribution of the number of further terms
    alpha: float | None = 0.05
    classes: int | None = None  # a Gaussian prior for each label
    context: int | None = None  # numbers that the networks see: of the label's embedding, or the caller's
    dequantization: str = "uniform"  # or "variational"
    policy: str = "store"  # what the flow keeps for its backward pass: or "checkpoint", "invert"
    every: int = 8


def perceptron(size: int, hidden: int, config: Config) -> nn.Module:
    sizes = [size, *[hidden] * (config.depth - 1), size]
    layers: list[nn.Module] = []
    for a, b in zip(sizes, sizes[1:], strict=False):
        layers += [LipSwish(), SpectralLinear(a, b, bound=config.bound, iterations=config.iterations)]
    return conditioned(layers[1:], sizes[1], config.context)


def bottleneck(channels: int, size: tuple[int, int], config: Config, *, first: bool) -> nn.Module:
    """LipSwish, 3x3, LipSwish, 1x1, LipSwish, 3x3; the first block of all begins with the convolution (appendix E)."""
    layers: list[nn.Module] = []
    widths = [(channels, config.hidden, 3), (config.hidden, config.hidden, 1), (config.hidden, channels, 3)]
    for a, b, kernel in widths:
        layers += [LipSwish(), SpectralConv2d(a, b, kernel, size, bound=config.bound, iterations=config.iterations)]
    if first:
        return conditioned(layers[1:], config.hidden, config.context)
    return conditioned(layers, channels, config.context)


class ResidualFlowModel(FlowModel):
    config_class = Config

    def __init__(self, config: Config):
        super().__init__(config)
        layers = self._vectors(config) if len(config.shape) == 1 else self._pictures(config)
        self.flow = FlowSequential(*layers, policy=config.policy, every=config.every)

    def _vectors(self, config: Config) -> list[Flow]:
        size = config.shape[0]
        layers: list[Flow] = [ActNorm(size)]
        for _ in range(config.blocks):
            layers += [self._block(perceptron(size, config.hidden, config), config), ActNorm(size)]
        return layers

    def _pictures(self, config: Config) -> list[Flow]:
        if config.scales > 1:
            check_halvings("ResidualFlowModel", config.shape, config.scales - 1)
        channels, height, width = config.shape
        layers: list[Flow] = [ActNorm(channels)]
        for scale in range(config.scales):
            if scale > 0:
                layers.append(Squeeze())
                channels, height, width = 4 * channels, height // 2, width // 2
            for _ in range(config.blocks):
                g = bottleneck(channels, (height, width), config, first=len(layers) == 1)
                layers += [self._block(g, config), ActNorm(channels)]
        layers.append(Flatten((channels, height, width)))
        size = math.prod(config.shape)
        for _ in range(config.dense_blocks):
            layers += [self._block(perceptron(size, config.dense_hidden, config), config), ActNorm(size)]
        self.prior = gaussian_base((size,), config.classes)
        return layers

    def _block(self, g: nn.Module, config: Config) -> Flow:
        if config.exact:
            return ResidualFlow(g, log_det=ExactLogDet())
        train, evaluate = (RussianRoulette(terms, config.p) for terms in (config.terms, config.eval_terms))
        return ResidualFlow(g, log_det=train, evaluation=evaluate, recompute=config.policy != "store")

    @torch.no_grad()
    def log_prob_and_error(
        self, x: Tensor, *, y: Tensor | int | None = None, context: Tensor | None = None, key: Tensor, draws: int = 16
    ) -> tuple[Tensor, Tensor]:
        """Log-likelihood averaged over draws of the estimators' noise, and its standard error, each ``[B]``, in nats.

        `log_prob` is one draw; the mean of draws is nearer to the exact value, and unbiased as each of them is. The
        dequantisation noise is that of the key, in all draws.
        """
        v, log_det = self.dequantize(x, key=key)
        labels = self._labels(y, x)
        context = self._context(labels, context)
        values = []
        for _ in several_draws(self.flow, draws, key):
            z, term = self.flow(v, context)
            values.append(self.prior.log_prob(z, labels) + log_det + term)
        return mean_and_error(values)


PRESETS = {
    "residual-flow": Config(),  # CIFAR-10 of section 5.1
    "residual-flow-mnist": Config(shape=(1, 28, 28), blocks=4, hidden=64, dense_blocks=2, dense_hidden=64, alpha=1e-6),
    "residual-flow-small": Config(
        shape=(1, 8, 8), levels=17, scales=2, blocks=3, hidden=24, dense_blocks=2, dense_hidden=64
    ),
    # within 0.3 nats of the exact density of every toy by its recipe
    "residual-flow-2d": Config(shape=(2,), levels=None, blocks=14, hidden=32, iterations=2, exact=True, alpha=None),
}
RECIPES = {"residual-flow-2d": {"steps": 1000, "batch_size": 256, "lr": 2e-2, "ema": 0.99}}
