"""Variational inference with normalizing flows. Rezende & Mohamed 2015 (arXiv:1505.05770).

A stack of planar (eq. 10) or radial (eq. 14) maps. As a density model the closed form leads from data to latents; as a
sampler, fitted to an energy by the reverse divergence (section 6.1), it leads from latents to data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ...nn import ActNorm, Flatten, Flow, FlowSequential, Inverse, Planar, Radial
from ._base import FlowModel, gaussian_base


@dataclass(frozen=True)
class Config:
    shape: tuple[int, ...] = (2,)
    levels: int | None = None
    kind: str = "planar"  # or "radial"
    layers: int = 32  # K
    closed: str = "density"  # the direction without iterations: or "sampling", as in the paper
    alpha: float | None = None
    classes: int | None = None  # a Gaussian prior for each label
    context: int | None = None  # numbers that the maps follow from: of the label's embedding, or the caller's
    dequantization: str = "uniform"  # or "variational"
    policy: str = "store"  # what the flow keeps for its backward pass: or "checkpoint", "invert"
    every: int = 8


KINDS: dict[str, type[Planar] | type[Radial]] = {"planar": Planar, "radial": Radial}


def elementary(kind: str, size: int, context: int | None) -> Flow:
    """One map; of a context, its parameters are an affine function, at first those of a map without one."""
    layer = KINDS[kind](size)
    if context is None:
        return layer
    start = torch.cat([parameter.detach().flatten() for parameter in layer.parameters()])
    amortised = nn.Linear(context, len(start))
    with torch.no_grad():
        amortised.weight.mul_(0.1)
        amortised.bias.copy_(start)
    return KINDS[kind](size, conditioner=amortised)


class PlanarFlow(FlowModel):
    config_class = Config

    def __init__(self, config: Config):
        super().__init__(config)
        if config.kind not in KINDS:
            raise ValueError(f"PlanarFlow: kind must be one of {tuple(KINDS)}; got {config.kind!r}.")
        if config.closed not in ("density", "sampling"):
            raise ValueError(f"PlanarFlow: closed must be 'density' or 'sampling'; got {config.closed!r}.")
        size = math.prod(config.shape)
        maps = [elementary(config.kind, size, config.context) for _ in range(config.layers)]  # f_1 ... f_K
        if config.closed == "sampling":
            maps = [Inverse(f) for f in reversed(maps)]
        first: list[Flow] = [] if len(config.shape) == 1 else [Flatten(config.shape)]
        norm: list[Flow] = [ActNorm(size)] if config.closed == "density" else []
        self.flow = FlowSequential(*first, *norm, *maps, policy=config.policy, every=config.every)
        self.prior = gaussian_base((size,), config.classes)

    def free_energy(
        self, energy: Callable[[Tensor], Tensor], n: int, *, key: Tensor, context: Tensor | None = None
    ) -> Tensor:
        r"""The reverse divergence from the density ``exp(-energy) / Z``, up to its constant, eq. 15.

        .. math:: F = \mathbb{E}_q[\log q(x) + U(x)] = \mathrm{KL}(q \,\Vert\, p) - \log Z \ge -\log Z

        Args:
            energy: ``U``, from ``[n, *shape]`` to ``[n]``.
            n: how many samples of the model.
            key: of their noise.
            context: of each sample, ``[n, context]``, where the maps follow from one.
        """
        z = self.prior.sample(n, key=key, dtype=self.dtype)
        x, log_det = self.flow.inverse(z, self._context(None, context))
        return (self.prior.log_prob(z) - log_det + energy(x)).mean()


# -- the energies of table 1 -------------------------------------------------------------------------------------------


def _ridge(x: Tensor, at: Tensor, width: float) -> Tensor:
    return -0.5 * ((x - at) / width).square()


def ring(x: Tensor) -> Tensor:
    """U_1: a ring of radius 2, dense where it crosses the first axis."""
    sides = torch.logaddexp(_ridge(x[:, 0], x.new_tensor(2.0), 0.6), _ridge(x[:, 0], x.new_tensor(-2.0), 0.6))
    return 0.5 * ((x.norm(dim=1) - 2) / 0.4).square() - sides


def wave(x: Tensor) -> Tensor:
    """U_2: a sine."""
    return -_ridge(x[:, 1], _sine(x), 0.4)


def split_wave(x: Tensor) -> Tensor:
    """U_3: a sine with a second branch below a bump."""
    bump = 3 * _ridge(x[:, 0], x.new_tensor(1.0), 0.6).exp()
    return -torch.logaddexp(_ridge(x[:, 1], _sine(x), 0.35), _ridge(x[:, 1], _sine(x) - bump, 0.35))


def forked_wave(x: Tensor) -> Tensor:
    """U_4: a sine that forks."""
    step = 3 * torch.sigmoid((x[:, 0] - 1) / 0.3)
    return -torch.logaddexp(_ridge(x[:, 1], _sine(x), 0.4), _ridge(x[:, 1], _sine(x) - step, 0.35))


def _sine(x: Tensor) -> Tensor:
    return torch.sin(2 * math.pi * x[:, 0] / 4)


def confined(energy: Callable[[Tensor], Tensor], half_width: float = 4.0) -> Callable[[Tensor], Tensor]:
    """The energy with walls at the edge of the figures: U_2 to U_4 are constant along the first axis, without end."""
    return lambda x: energy(x) + softplus(10 * (x.abs() - half_width)).sum(1)


ENERGIES = {"u1": ring, "u2": wave, "u3": split_wave, "u4": forked_wave}

PRESETS = {
    "planar-2d": Config(),
    "radial-2d": Config(kind="radial"),
    "planar-energy-2d": Config(closed="sampling"),
    "planar": Config(shape=(3, 32, 32), levels=256, layers=80, alpha=0.05),
    "planar-mnist": Config(shape=(1, 28, 28), levels=256, layers=80, alpha=1e-6),  # 80 maps: the most of figure 4
    "planar-small": Config(shape=(1, 8, 8), levels=17, layers=64),
}
