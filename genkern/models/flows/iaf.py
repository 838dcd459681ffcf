"""Improving variational inference with Inverse Autoregressive Flow. Kingma et al. 2016 (arXiv:1606.04934).

Each step mixes a latent with a candidate by a gate, both from an autoregressive network of the latents before it
(eq. 14, algorithm 1), and the order is reversed from step to step. In the paper the flow is the posterior of a VAE,
which needs samples and their density: one pass. Here it is a model of data. A gate only ever shrinks volume, so an
activation normalisation stands before each step; the density of data takes the recursion, with each hidden unit
computed once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...nn import (
    MADE,
    ActNorm,
    Flatten,
    Flow,
    FlowSequential,
    InverseAutoregressive,
)
from ._base import FlowModel, gaussian_base


@dataclass(frozen=True)
class Config:
    shape: tuple[int, ...] = (1, 8, 8)
    levels: int | None = 17
    steps: int = 4  # T
    hidden: int = 256  # units of a hidden layer
    blocks: int = 1  # residual blocks of two layers after the first hidden layer
    activation: str = "tanh"  # bounded, for the recursion feeds what it finds back into the network
    alpha: float | None = 0.05  # of the logit transform of the pixels
    classes: int | None = None  # a Gaussian prior for each label
    context: int | None = None  # h, numbers that the networks see: of the label's embedding, or the caller's
    dequantization: str = "uniform"  # or "variational"
    policy: str = "store"  # what the flow keeps for its backward pass: or "checkpoint", "invert"
    every: int = 8


def step(size: int, number: int, config: Config) -> list[Flow]:
    """One gated step, in the natural or the reversed order."""
    network = MADE(
        size,
        [config.hidden] * (1 + 2 * config.blocks),
        outputs=2,
        context=config.context or 0,
        residual=True,
        activation=config.activation,
        order="reversed" if number % 2 else "natural",
    )
    return [ActNorm(size), InverseAutoregressive(network)]


class IAF(FlowModel):
    config_class = Config

    def __init__(self, config: Config):
        super().__init__(config)
        size = math.prod(config.shape)
        self.prior = gaussian_base((size,), config.classes)
        steps = [flow for number in range(config.steps) for flow in step(size, number, config)]
        self.flow = FlowSequential(Flatten(tuple(config.shape)), *steps, policy=config.policy, every=config.every)


PRESETS = {
    "iaf": Config(shape=(3, 32, 32), levels=256, hidden=1024),
    "iaf-mnist": Config(shape=(1, 28, 28), levels=256, hidden=512, alpha=1e-6),
    "iaf-small": Config(),
    "iaf-2d": Config(shape=(2,), levels=None, steps=8, hidden=64, alpha=None),
}
