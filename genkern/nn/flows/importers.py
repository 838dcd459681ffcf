"""Layers from the state dicts of other libraries: the same ``z`` and log-determinant in the density direction.

None of them needs to be installed. ``normflows`` runs its flows in the sampling direction, so what it calls
``inverse`` is `forward` here; ``nflows`` has the directions of this library.

>>> state = {"log_scale": torch.zeros(3), "shift": torch.ones(3), "initialized": torch.tensor(True)}
>>> nflows_actnorm(state)
ActNorm(3, form='scale_then_shift')
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ...ops import spline_parameters
from .actnorm import ActNorm
from .conv1x1 import InvertibleConv1x1
from .coupling import AdditiveCoupling, AffineCoupling
from .flow import Flow, Inverse
from .sequential import FlowSequential
from .spline import SplineCoupling

State = Mapping[str, Tensor]


# -- normflows ---------------------------------------------------------------------------------------------------------


def normflows_glow_block(
    state: State, *, scale: bool = True, scale_map: str = "sigmoid", split_mode: str = "channel", leaky: float = 0.0
) -> FlowSequential:
    """A ``normflows.flows.GlowBlock``; the options are those that it was made with.

    Raises:
        ValueError: for checkerboard splits and normalised networks, which have no counterpart here.
    """
    network = normflows_conv_net(part(state, "flows.0.flows.1.param_map."), leaky=leaky)
    conv, norm = normflows_conv1x1(part(state, "flows.1.")), normflows_actnorm(part(state, "flows.2."))
    channels = norm.log_scale.numel()
    options: dict[str, Any] = {"scale": scale, "scale_map": scale_map, "split_mode": split_mode}
    return FlowSequential(norm, conv, normflows_affine_coupling(network, channels, **options))


def normflows_affine_coupling(
    network: nn.Module, channels: int, *, scale: bool = True, scale_map: str = "exp", split_mode: str = "channel"
) -> Flow:
    """A ``normflows.flows.AffineCouplingBlock`` around its ``param_map``, which holds all its weights."""
    if split_mode not in ("channel", "channel_inv"):
        raise ValueError(
            f"normflows_affine_coupling: split_mode must be 'channel' or 'channel_inv'; got {split_mode!r}."
        )
    if scale and scale_map not in ("exp", "sigmoid", "sigmoid_inv"):
        raise ValueError(
            f"normflows_affine_coupling: scale_map must be 'exp', 'sigmoid' or 'sigmoid_inv'; got {scale_map!r}."
        )
    flip = split_mode == "channel_inv"
    half: dict[str, Any] = {"flip": flip, "transformed": (channels + 1) // 2 if flip else channels // 2}
    if not scale:
        return Inverse(AdditiveCoupling(network, **half))
    if scale_map == "sigmoid":  # (x - t) sigma
        return AffineCoupling(ShiftFirst(network), scale="sigmoid", **half)
    kind = "exp" if scale_map == "exp" else "sigmoid"
    return Inverse(AffineCoupling(network, scale=kind, layout="interleaved", **half))


def normflows_actnorm(state: State) -> ActNorm:
    """A ``normflows.flows.ActNorm`` over channels: ``(x - t) e^-s``."""
    layer = ActNorm(state["s"].numel(), form="shift_then_scale")
    return set_affine(layer, -state["s"].flatten(), -state["t"].flatten(), bool(state["data_dep_init_done"]))


def normflows_conv1x1(state: State) -> InvertibleConv1x1:
    """A ``normflows.flows.Invertible1x1Conv``, free or by its LU decomposition."""
    if "W" in state:
        layer = InvertibleConv1x1(len(state["W"]), "free")
        layer.load_state_dict({"weight": state["W"]})
        return layer
    layer = InvertibleConv1x1(len(state["L"]), "plu")
    layer.load_state_dict(
        {
            "permutation": state["P"].argmax(1),
            "lower": state["L"],
            "upper": state["U"],
            "signs": state["sign_S"],
            "log_diagonal": state["log_S"],
        }
    )
    return layer


def normflows_conv_net(state: State, *, leaky: float = 0.0) -> nn.Sequential:
    """A ``normflows.nets.ConvNet2d`` without activation normalisation."""
    if any("actNorm" in name for name in state):
        raise ValueError("normflows_conv_net: state must be that of a network without net_actnorm.")
    weights = [name for name in state if name.endswith(".weight")]
    layers: list[nn.Module] = []
    for name in sorted(weights, key=lambda name: int(name.split(".")[-2])):
        outputs, inputs, size, _ = state[name].shape
        conv = nn.Conv2d(inputs, outputs, size, padding=size // 2)
        conv.load_state_dict({"weight": state[name], "bias": state[name.removesuffix("weight") + "bias"]})
        layers += [conv, nn.LeakyReLU(leaky)]
    return nn.Sequential(*layers[:-1])


def normflows_spline_coupling(
    state: State, *, bins: int = 8, bound: float = 3.0, tails: str | None = "linear"
) -> FlowSequential:
    """A ``normflows.flows.CoupledRationalQuadraticSpline`` of vectors, without context: its network comes with it.

    Splines of the one half by a network of the other, then splines of the other with parameters of their own.
    """
    state = part(state, "prqct.")
    network = normflows_residual_net(part(state, "transform_net."))
    options: dict[str, Any] = {"bins": bins, "bound": bound, "tails": tails}
    return _spline_coupling(state, network, len(state["transform_net.initial_layer.bias"]), options)


def normflows_residual_net(state: State) -> nn.Sequential:
    """A ``normflows.nets.ResidualNet`` (nflows has the same) with ReLU units, without context or batch norms."""
    if any("context" in name or "batch_norm" in name for name in state):
        raise ValueError("normflows_residual_net: state must be that of a network without context and batch norms.")

    def linear(name: str) -> nn.Linear:
        outputs, inputs = state[f"{name}.weight"].shape
        layer = nn.Linear(inputs, outputs)
        layer.load_state_dict(part(state, f"{name}."))
        return layer

    count = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    blocks = (ReluBlock(*(linear(f"blocks.{i}.linear_layers.{j}") for j in (0, 1))) for i in range(count))
    return nn.Sequential(linear("initial_layer"), *blocks, linear("final_layer"))


class ReluBlock(nn.Module):
    def __init__(self, first: nn.Module, second: nn.Module):
        super().__init__()
        self.branch = nn.Sequential(nn.ReLU(), first, nn.ReLU(), second)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class ShiftFirst(nn.Module):
    """Parameters of ``sigma(s + 2) (x - t)`` as those of ``sigma(s + 2) x + t'``; interleaved to scale, then shift."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        raw = self.network(x, *context)
        shift, scale = raw[:, 0::2], raw[:, 1::2]
        return torch.cat([scale, -shift * torch.sigmoid(scale + 2)], 1)


# -- nflows ------------------------------------------------------------------------------------------------------------


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
            ``min_derivative``. Without tails nflows takes data in [0, 1], and this layer data in [-bound, bound].
        hidden: ``hidden_features`` or ``hidden_channels`` of its ``transform_net`` where that has one, by whose root
            nflows divides.

    Raises:
        ValueError: without tails; there the intervals differ.
    """
    if tails != "linear":
        raise ValueError(f"nflows_spline_coupling: tails must be 'linear'; got {tails!r}.")
    network.load_state_dict(part(state, "transform_net."))
    options: dict[str, Any] = {"bins": bins, "bound": bound, "tails": tails}
    options |= {"min_bin": min_bin, "min_slope": min_slope}
    layers = _spline_coupling(state, network, hidden, options)
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


# -- both --------------------------------------------------------------------------------------------------------------


def part(state: State, prefix: str) -> dict[str, Tensor]:
    """The entries under a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


@torch.no_grad()
def set_affine(layer: ActNorm, log_scale: Tensor, bias: Tensor, initialized: bool) -> ActNorm:
    layer.log_scale.copy_(log_scale)
    layer.bias.copy_(bias)
    if initialized:
        layer.mark_initialized()
    return layer


def _spline_coupling(state: State, network: nn.Module, hidden: int | None, options: dict[str, Any]) -> FlowSequential:
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
