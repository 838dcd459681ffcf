"""Masked Autoregressive Flow for density estimation. Papamakarios, Pavlakou & Murray 2017 (arXiv:1705.07057).

Each layer standardises every variable by a mean and a deviation that a MADE computes from the variables before it
(eq. 3-4); the order is reversed from layer to layer, with batch normalisation after each (section 4.1). The base is a
standard normal, or a mixture of Gaussians ("MAF MoG"). Density takes one pass; sampling solves for one variable after
the other, and computes each hidden unit once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...nn import (
    MADE,
    AffineTransform,
    Flatten,
    Flow,
    FlowBatchNorm,
    FlowSequential,
    MaskedAutoregressive,
    MixtureOfGaussians,
    Prior,
)
from ._base import FlowModel, gaussian_base


@dataclass(frozen=True)
class Config:
    shape: tuple[int, ...] = (1, 28, 28)
    levels: int | None = 256
    layers: int = 5  # K, MADEs
    hidden: int = 1024  # units of a hidden layer
    hidden_layers: int = 1  # L, of a MADE
    activation: str = "relu"
    components: int = 1  # C, of the base: 1, a standard normal; more, a mixture of Gaussians
    batch_norm: bool = True
    alpha: float | None = 1e-6  # of the logit transform of the pixels (section 4.3)
    classes: int | None = None  # a Gaussian base for each label
    context: int | None = None  # numbers that the MADEs see: of the label's embedding, or the caller's (section 3.4)
    dequantization: str = "uniform"  # or "variational"
    policy: str = "store"  # what the flow keeps for its backward pass: or "checkpoint", "invert"
    every: int = 8


def layer(size: int, number: int, config: Config) -> list[Flow]:
    """One MADE, in the natural or the reversed order, and its normalisation."""
    network = MADE(
        size,
        [config.hidden] * config.hidden_layers,
        outputs=2,
        context=config.context or 0,
        activation=config.activation,
        order="reversed" if number % 2 else "natural",
    )
    autoregressive = MaskedAutoregressive(network, AffineTransform("tanh", bound=5.0, standardize=True))
    return [autoregressive, FlowBatchNorm(size)] if config.batch_norm else [autoregressive]


def base(size: int, config: Config) -> Prior:
    if config.components > 1:
        return MixtureOfGaussians((size,), config.components)
    return gaussian_base((size,), config.classes)


class MAF(FlowModel):
    config_class = Config

    def __init__(self, config: Config):
        super().__init__(config)
        if config.components < 1 or (config.components > 1 and config.classes is not None):
            wanted = "1 or more, and 1 where there are classes"
            raise ValueError(f"MAF: components must be {wanted}; got {config.components}, classes={config.classes}.")
        size = math.prod(config.shape)
        self.prior = base(size, config)
        layers = [flow for number in range(config.layers) for flow in layer(size, number, config)]
        self.flow = FlowSequential(Flatten(tuple(config.shape)), *layers, policy=config.policy, every=config.every)


PRESETS = {
    "maf": Config(shape=(3, 32, 32), hidden=2048, alpha=0.05),  # CIFAR-10 of section 4.3
    "maf-mnist": Config(),  # MAF (5) of section 4.3
    "maf-small": Config(shape=(1, 8, 8), levels=17, hidden=256),
    "maf-2d": Config(shape=(2,), levels=None, layers=8, hidden=64, hidden_layers=2, batch_norm=False, alpha=None),
}
