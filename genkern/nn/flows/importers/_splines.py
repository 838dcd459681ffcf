"""Spline couplings as nflows and normflows arrange them: some features drive splines of the others."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ....ops import spline_parameters
from ..sequential import FlowSequential
from ..spline import SplineCoupling
from ._state import State, part


def spline_coupling(state: State, network: nn.Module, hidden: int | None, options: dict[str, Any]) -> FlowSequential:
    """Splines by the network and, where the state has them, those of the identity features."""
    identity, transformed = state["identity_features"], state["transform_features"]
    count, bins = len(identity) + len(transformed), options["bins"]
    per_spline = spline_parameters(bins, options["tails"])
    options = options | {"layout": "parameters_last", "unit_slope": False}
    passes = torch.zeros(count, dtype=torch.bool)
    passes[identity] = True
    divisor = 1.0 if hidden is None else math.sqrt(hidden)
    spread = SpreadSplines(network, identity, transformed, per_spline, 2 * bins, divisor)
    layers = [SplineCoupling(spread, mask=passes, **options)]
    own = part(state, "unconditional_transform.")
    if own:
        raw = torch.cat([own[f"unnormalized_{name}"] for name in ("widths", "heights", "derivatives")], dim=-1)
        table = SpreadSplines(raw, transformed, identity, per_spline, 0, 1.0)
        layers.append(SplineCoupling(table, mask=~passes, **options))
    return FlowSequential(*layers)


class SpreadSplines(nn.Module):
    """Parameters of the splines of some features, set among zeros for all: of a network's, or of none but its own.

    Args:
        source: a network that reads the other features, or the parameters themselves, ``[features, P]``.
        read: the features that the network reads.
        written: the features whose splines they are.
        per_spline: P.
        shares: how many of the P numbers are divided by ``divisor``: widths and heights.
    """

    read: Tensor
    written: Tensor
    scale: Tensor

    def __init__(
        self, source: nn.Module | Tensor, read: Tensor, written: Tensor, per_spline: int, shares: int, divisor: float
    ):
        super().__init__()
        self.source = nn.Parameter(source.clone()) if isinstance(source, Tensor) else source
        self.register_buffer("read", read.clone())
        self.register_buffer("written", written.clone())
        scale = torch.ones(per_spline)
        scale[:shares] = 1 / divisor
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        if isinstance(self.source, nn.Parameter):
            raw = self.source.expand(len(x), -1, -1)
        else:
            raw = self.source(x[:, self.read], *context)
            raw = raw.unflatten(1, (len(self.written), len(self.scale)))  # [B, features, P, *]
        raw = raw * self.scale.to(raw.dtype).view(-1, *[1] * (raw.dim() - 3))
        full = raw.new_zeros(len(x), x.shape[1], *raw.shape[2:])
        return full.index_copy(1, self.written, raw).flatten(1, 2)
