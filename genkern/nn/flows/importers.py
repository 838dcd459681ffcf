"""Layers from the state dicts of other libraries: the same ``z`` and log-determinant in the density direction.

None of them needs to be installed. ``normflows`` runs its flows in the sampling direction, so what it calls
``inverse`` is `forward` here; ``nflows`` has the directions of this library.

>>> state = {"log_scale": torch.zeros(3), "shift": torch.ones(3), "initialized": torch.tensor(True)}
>>> nflows_actnorm(state)
ActNorm(3, form='scale_then_shift')
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from .actnorm import ActNorm
from .conv1x1 import InvertibleConv1x1
from .coupling import AdditiveCoupling, AffineCoupling
from .flow import Flow, Inverse
from .sequential import FlowSequential

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
