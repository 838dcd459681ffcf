"""NICE: Non-linear Independent Components Estimation. Dinh, Krueger & Bengio 2014 (arXiv:1410.8516).

Additive couplings of the odd and the even components, whose volume never changes, then one learned scaling of each
component (section 3.3), under a prior of independent logistic or Gaussian components (section 3.4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from ...nn import (
    AdditiveCoupling,
    ChannelAffine,
    Flatten,
    FlowSequential,
    StandardLogistic,
)
from ...nn.flows.conditioners import conditioned
from ._base import FlowModel, gaussian_base


@dataclass(frozen=True)
class Config:
    shape: tuple[int, ...] = (1, 28, 28)
    levels: int | None = 256
    couplings: int = 4
    hidden: int = 1000
    layers: int = 5  # hidden layers of a coupling network
    prior: str = "logistic"  # or "gaussian"
    alpha: float | None = None  # of a logit transform of the pixels
    classes: int | None = None  # a Gaussian prior for each label, where the prior is Gaussian
    context: int | None = None  # numbers that the networks see: of the label's embedding, or the caller's
    dequantization: str = "uniform"  # or "variational"
    policy: str = "store"  # what the flow keeps for its backward pass: or "checkpoint", "invert"
    every: int = 8


def coupling_network(size: int, config: Config) -> nn.Module:
    """A perceptron with rectified units and a linear output (section 5.1)."""
    sizes = [size] + [config.hidden] * config.layers
    layers = [f for a, b in zip(sizes, sizes[1:], strict=False) for f in (nn.Linear(a, b), nn.ReLU())]
    last = nn.Linear(sizes[-1], size)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return conditioned([*layers, last], sizes[1], config.context)


class NICE(FlowModel):
    config_class = Config

    def __init__(self, config: Config):
        super().__init__(config)
        if config.prior not in ("logistic", "gaussian"):
            raise ValueError(f"NICE: prior must be 'logistic' or 'gaussian'; got {config.prior!r}.")
        size = math.prod(config.shape)
        if size < 2:
            raise ValueError(f"NICE: a sample must have 2 numbers or more; got shape={config.shape}.")
        if config.prior == "logistic":
            self.prior = StandardLogistic((size,))
            if config.classes is not None and not config.context:
                raise ValueError("NICE: classes need context, or prior='gaussian'; a logistic prior sees no label.")
        else:
            self.prior = gaussian_base((size,), config.classes)
        odd = torch.arange(size) % 2 == 1
        couplings = (
            AdditiveCoupling(coupling_network(size, config), mask=odd if i % 2 else ~odd)
            for i in range(config.couplings)
        )
        self.flow = FlowSequential(
            Flatten(tuple(config.shape)),
            *couplings,
            ChannelAffine(size, bias=False),
            policy=config.policy,
            every=config.every,
        )


PRESETS = {
    "nice": Config(),  # MNIST of section 5.1
    "nice-cifar10": Config(shape=(3, 32, 32), hidden=2000, layers=4),  # of section 5.1
    "nice-small": Config(shape=(1, 8, 8), levels=17, hidden=256, layers=3),
    "nice-2d": Config(shape=(2,), levels=None, couplings=6, hidden=64, layers=2, prior="gaussian"),
}
