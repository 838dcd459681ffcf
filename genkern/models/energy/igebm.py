"""Implicit Generation and Modeling with Energy-Based Models. Du & Mordatch 2019 (arXiv:1903.08689).

A convolutional network with bounded weights gives the energy of a picture. Training lowers it on data and raises it on
the states of short Langevin chains, most of which go on where an earlier one stopped (algorithm 1). The noise of a step
comes before its gradient; every element of the gradient is clamped, then the picture is.

The paper's Adam has no momentum (``--betas 0 0.999``) and clips gradients to three standard
deviations of their own history; here ``--clip`` bounds their norm.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ... import random
from .._base import Batch, Loss, as_batch
from ._energy import BINS, PersistentEnergyModel, energy_network, vector_network


@dataclass(frozen=True)
class Config:
    shape: tuple[int, ...] = (3, 32, 32)
    levels: int | None = 256
    extent: float = 5.0  # of vectors: chains begin and stay between it and its negative; pixels go to [0, 1]
    network: str = "residual"  # or "conv", or "mlp" for vectors
    channels: tuple[int, ...] = (128, 256, 256)
    blocks: int = 2  # residual blocks of a stage
    spectral: bool = True  # bounds the Lipschitz constant of every layer
    steps: int = 60  # K, of a chain
    step: float = 10.0  # lambda
    noise: float = 0.005
    clamp_grad: float = 0.01
    buffer: int = 10000
    reinit: float = 0.05
    regularization: float = 1.0  # alpha, of squared energies


class IGEBM(PersistentEnergyModel):
    config_class = Config
    order = "noise-first"

    def __init__(self, config: Config):
        super().__init__(config)
        if config.levels is None:
            self.low, self.high = -config.extent, config.extent
        self.clamp, self.clamp_grad = (self.low, self.high), config.clamp_grad
        self.network: nn.Module
        if config.levels is None and config.network == "mlp":
            self.network = vector_network(config.shape, tuple(config.channels))
        else:
            self.network = energy_network(config, 1, spectral=config.spectral, pool="sum")
        self.replay = self.make_buffer()

    def energy_at(self, v: Tensor) -> Tensor:
        return self.network(v).squeeze(1)

    def loss(self, batch: Batch | Tensor, *, key: Tensor | None = None, sample_offset: int = 0) -> Loss:
        r""":math:`E^+ - E^- + \alpha (E^{+2} + E^{-2})`, of data and of chains."""
        x, _ = as_batch(batch)
        key = random.key_from(device=x.device) if key is None else key
        data = self.scale(x, key=random.fold_in(key, BINS), sample_offset=sample_offset)
        low, high = self.contrast(data, self.negatives(len(x), key=key, sample_offset=sample_offset))
        contrast = low.mean() - high.mean()
        total = contrast + self.config.regularization * (low.square().mean() + high.square().mean())
        terms = {"energy_data": low.mean(), "energy_chain": high.mean(), "contrast": contrast}
        return Loss(total, {name: value.detach() for name, value in terms.items()})


PRESETS = {
    "igebm": Config(),
    "igebm-mnist": Config(
        (1, 28, 28),
        network="conv",
        channels=(8, 32, 64, 128),
        steps=20,
        clamp_grad=0.03,
        buffer=4000,
        regularization=0.1,
    ),
    # the chain moves a pixel by at most 0.1 a step, as in the paper, at a temperature of 2.5e-5
    "igebm-small": Config(
        (1, 8, 8),
        levels=17,
        network="conv",
        channels=(32, 64, 128),
        steps=20,
        step=0.5,
        clamp_grad=0.2,
        buffer=2000,
        regularization=0.1,
    ),
    # at temperature 1: the density itself
    "igebm-2d": Config(
        (2,),
        levels=None,
        network="mlp",
        channels=(128, 128, 128),
        steps=20,
        step=0.02,
        noise=0.2,
        clamp_grad=10.0,
        regularization=0.01,
    ),
}

RECIPES = {
    "igebm-mnist": {
        "steps": 700,
        "lr": 1e-3,
        "betas": (0.0, 0.999),
        "weight_decay": 0.0,
        "clip": 0.1,
        "ema": 0.99,
        "evaluate_every": 350,
    },
}
