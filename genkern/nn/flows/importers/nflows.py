"""Layers of nflows, which has the directions of this library."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ..actnorm import ActNorm
from ..conv1x1 import InvertibleConv1x1
from ..coupling import AdditiveCoupling, AffineCoupling
from ..flow import Flow
from ._splines import spline_coupling
from ._state import State, part, set_affine


def nflows_affine_coupling(state: State, network: nn.Module, *, additive: bool = False) -> Flow:
    """An ``nflows.transforms.AffineCouplingTransform`` (or ``AdditiveCouplingTransform``) with its default scale.

    Args:
        state: the transform's state dict.
        network: built as its ``transform_net`` was; its weights are taken from the state.
        additive: it was an ``AdditiveCouplingTransform``.
    """
    network.load_state_dict(part(state, "transform_net."))
    identity, transformed = state["identity_features"], state["transform_features"]
    mask = torch.zeros(len(identity) + len(transformed), dtype=torch.bool)
    mask[identity] = True
    spread = SpreadFeatures(network, identity, transformed, additive=additive)
    return AdditiveCoupling(spread, mask=mask) if additive else AffineCoupling(spread, scale="exp", mask=mask)


def nflows_spline_coupling(
    state: State,
    network: nn.Module,
    *,
    bins: int = 10,
    bound: float = 1.0,
    tails: str | None = None,
    hidden: int | None = None,
    min_bin: float = 1e-3,
    min_slope: float = 1e-3,
) -> Flow:
    """An ``nflows.transforms.PiecewiseRationalQuadraticCouplingTransform``, with the names of its options here.

    Args:
        state: the transform's state dict; it may have splines for the identity features, too.
        network: built as its ``transform_net`` was; its weights are taken from the state.
        bins, bound, tails, min_bin, min_slope: its ``num_bins``, ``tail_bound``, ``tails``, ``min_bin_width`` and
            ``min_derivative``. Without tails nflows takes data in [0, 1], which has no counterpart here.
        hidden: ``hidden_features`` or ``hidden_channels`` of its ``transform_net`` where that has one, by whose root
            nflows divides.

    Raises:
        ValueError: without tails.
    """
    if tails != "linear":
        raise ValueError(f"nflows_spline_coupling: tails must be 'linear'; got {tails!r}.")
    network.load_state_dict(part(state, "transform_net."))
    options: dict[str, Any] = {"bins": bins, "bound": bound, "tails": tails}
    options |= {"min_bin": min_bin, "min_slope": min_slope}
    layers = spline_coupling(state, network, hidden, options)
    return layers if len(list(layers)) > 1 else next(iter(layers))


def nflows_actnorm(state: State) -> ActNorm:
    """An ``nflows.transforms.ActNorm``."""
    layer = ActNorm(state["shift"].numel())
    return set_affine(layer, state["log_scale"], state["shift"], bool(state["initialized"]))


def nflows_conv1x1(state: State, *, eps: float = 1e-3) -> InvertibleConv1x1:
    """An ``nflows.transforms.OneByOneConvolution``: a permutation of the channels, then ``L U x + bias``."""
    size = len(state["bias"])
    lower, upper = (torch.zeros(size, size, dtype=torch.float64) for _ in range(2))
    lower[tuple(torch.tril_indices(size, size, -1))] = state["lower_entries"].double()
    upper[tuple(torch.triu_indices(size, size, 1))] = state["upper_entries"].double()
    diagonal = softplus(state["unconstrained_upper_diag"].double()) + eps
    weight = torch.zeros_like(lower)
    weight[:, state["permutation._permutation"]] = (lower + torch.eye(size)) @ (upper + torch.diag(diagonal))
    layer = InvertibleConv1x1(size, "plu", bias=True)
    layer.set_matrix(weight)
    with torch.no_grad():
        layer.bias.copy_(state["bias"])  # type: ignore[union-attr]
    return layer


class SpreadFeatures(nn.Module):
    """Reads the identity features of a masked input; sets the parameters of the others among all features."""

    identity: Tensor
    transformed: Tensor

    def __init__(self, network: nn.Module, identity: Tensor, transformed: Tensor, *, additive: bool):
        super().__init__()
        self.network, self.additive = network, additive
        self.register_buffer("identity", identity.clone())
        self.register_buffer("transformed", transformed.clone())

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        raw = self.network(x[:, self.identity], *context)
        full = raw.new_zeros(len(x), 1 if self.additive else 2, *x.shape[1:])
        if self.additive:
            return full.index_copy(2, self.transformed, raw[:, None]).flatten(1, 2)
        shift, scale = raw.chunk(2, dim=1)
        log_scale = torch.log(torch.sigmoid(scale + 2) + 1e-3)
        return full.index_copy(2, self.transformed, torch.stack([log_scale, shift], 1)).flatten(1, 2)
