"""Planar and radial layers: a ridge along one direction, a push or pull around one point."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ... import ops
from .conditioners import conditioned_on
from .flow import Flow


class Planar(Flow):
    """Moves samples along one direction by a function of their projection on another; see `genkern.ops.planar`.

    `forward`, from data to latents, is the closed form, so that a density model trains without a root; sampling solves
    for one number by Newton's method. Where the closed form must be the sampling direction, as in the variational
    posterior of the paper, wrap the layer: ``Inverse(Planar(D))``.

    Args:
        features: ``D``, how many elements a sample has, in any shape.
        conditioner: maps the context to ``[B, 2 * D + 1]``, that is u, w and b for each sample (amortised, as from an
            encoder); by default they are parameters of the layer, at first close to the identity.

    >>> layer = Planar(2)
    >>> z, log_det = layer(torch.randn(8, 2))
    """

    def __init__(self, features: int, *, conditioner: nn.Module | None = None):
        super().__init__()
        if features < 1:
            raise ValueError(f"Planar: features must be at least 1; got {features}.")
        self.features, self.conditioner = features, conditioner
        if conditioner is None:
            w = torch.randn(features) / math.sqrt(features)
            identity = math.log(math.e - 1) * w / w.square().sum()  # softplus(w.u) = 1: nothing moves
            self.u = nn.Parameter(identity + 0.1 * torch.randn(features))
            self.w = nn.Parameter(w)
            self.b = nn.Parameter(torch.zeros(()))

    def parameters_for(self, context: Tensor | None) -> tuple[Tensor, ...]:
        if self.conditioner is None:
            return self.u, self.w, self.b
        u, w, b = conditioned_on(self.conditioner, context, type(self).__name__).split(
            [self.features, self.features, 1], dim=1
        )
        return u, w, b.squeeze(1)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return ops.planar(x, *self.parameters_for(context))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return ops.planar(z, *self.parameters_for(context), inverse=True)

    def extra_repr(self) -> str:
        return f"features={self.features}"


class Radial(Flow):
    """Moves samples towards a centre or away from it, in closed form both ways; see `genkern.ops.radial`.

    Args:
        features: ``D``, how many elements a sample has, in any shape.
        conditioner: maps the context to ``[B, D + 2]``, that is the centre, raw alpha and raw beta for each sample; by
            default they are parameters of the layer, at first close to the identity.

    >>> layer = Radial(2)
    >>> z, log_det = layer(torch.randn(8, 2))
    """

    def __init__(self, features: int, *, conditioner: nn.Module | None = None):
        super().__init__()
        if features < 1:
            raise ValueError(f"Radial: features must be at least 1; got {features}.")
        self.features, self.conditioner = features, conditioner
        if conditioner is None:
            self.center = nn.Parameter(torch.randn(features))
            self.raw_alpha = nn.Parameter(torch.zeros(()))
            self.raw_beta = nn.Parameter(0.1 * torch.randn(()))

    def parameters_for(self, context: Tensor | None) -> tuple[Tensor, ...]:
        if self.conditioner is None:
            return self.center, self.raw_alpha, self.raw_beta
        center, raw_alpha, raw_beta = conditioned_on(self.conditioner, context, type(self).__name__).split(
            [self.features, 1, 1], dim=1
        )
        return center, raw_alpha.squeeze(1), raw_beta.squeeze(1)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return ops.radial(x, *self.parameters_for(context))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return ops.radial(z, *self.parameters_for(context), inverse=True)

    def extra_repr(self) -> str:
        return f"features={self.features}"
