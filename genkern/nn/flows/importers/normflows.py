"""Layers of normflows, which runs its flows in the sampling direction: what it calls ``inverse`` is `forward` here."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..actnorm import ActNorm
from ..conv1x1 import InvertibleConv1x1
from ..coupling import AdditiveCoupling, AffineCoupling
from ..flow import Flow, Inverse
from ..sequential import FlowSequential
from ._splines import spline_coupling
from ._state import State, part, set_affine


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
    return spline_coupling(state, network, len(state["transform_net.initial_layer.bias"]), options)


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
