"""The Glow of rosinality/glow-pytorch, whole, from its checkpoint."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ..actnorm import ActNorm
from ..conv1x1 import InvertibleConv1x1
from ..coupling import AdditiveCoupling, AffineCoupling
from ..flow import Flow
from ..sequential import FlowSequential
from ..split import Split
from ..squeeze import Squeeze, Unsqueeze
from ._state import State, part, set_affine


def rosinality_glow(state: State, *, policy: str = "store") -> FlowSequential:
    """The flow of a ``model.Glow``: affine or additive, with free or LU-decomposed convolutions.

    Where that model returns ``log_p, log_det, z_outs``, ``log_p + log_det`` is here the standard normal log-density of
    ``z`` plus its log-determinant: the learned Gaussians of all levels are parts of the flow.

    Args:
        state: its state dict; a checkpoint of ``DataParallel`` has the prefix ``module.``, which is dropped.
        policy: that of the `FlowSequential` of each level.

    Raises:
        ValueError: if the state is not that of a Glow.
    """
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    levels = {int(name.split(".")[1]) for name in state if name.startswith("blocks.")}
    if not levels:
        raise ValueError("rosinality_glow: state must hold blocks.0, ...; it has " + ", ".join(list(state)[:3]))
    return _level([part(state, f"blocks.{i}.") for i in sorted(levels)], policy)


def _level(blocks: list[dict[str, Tensor]], policy: str) -> FlowSequential:
    block, *finer = blocks
    count = 1 + max(int(name.split(".")[1]) for name in block if name.startswith("flows."))
    steps = [step for i in range(count) for step in _step(part(block, f"flows.{i}."))]
    prior = DeviationFirst(_zero_conv(part(block, "prior."), ""))
    leave: Flow = Split(prior, _level(finer, policy)) if finer else FixedGaussian(prior)
    return FlowSequential(Squeeze(), *steps, leave, Unsqueeze(), policy=policy)


def _step(state: State) -> list[Flow]:
    scale, loc = state["actnorm.scale"].flatten(), state["actnorm.loc"].flatten()
    channels = len(scale)
    norm = ActNorm(channels, form="shift_then_scale")
    set_affine(norm, scale.abs().log(), loc, bool(state["actnorm.initialized"]))
    conv = InvertibleConv1x1(channels, "plu" if "invconv.w_s" in state else "free")
    conv.set_matrix(_matrix(part(state, "invconv.")) * scale.sign())  # a scale may have become negative
    return [norm, conv, _coupling(part(state, "coupling.net."), channels)]


def _matrix(state: State) -> Tensor:
    if "weight" in state:
        return state["weight"].flatten(1)
    lower = state["w_l"].double().tril(-1) + torch.eye(len(state["w_s"]))
    upper = state["w_u"].double().triu(1) + torch.diag(state["s_sign"] * state["w_s"].double().exp())
    return (state["w_p"].double() @ lower @ upper).float()


def _coupling(state: State, channels: int) -> Flow:
    convs = [_conv(part(state, f"{i}."), padding) for i, padding in ((0, 1), (2, 0))]
    network = nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU(), _zero_conv(state, "4."))
    if len(state["4.scale"].flatten()) == channels // 2:
        return AdditiveCoupling(network)
    return AffineCoupling(ShiftBeforeScale(network))


def _conv(state: State, padding: int) -> nn.Conv2d:
    outputs, inputs, size, _ = state["weight"].shape
    conv = nn.Conv2d(inputs, outputs, size, padding=padding)
    conv.load_state_dict({"weight": state["weight"], "bias": state["bias"]})
    return conv


def _zero_conv(state: State, prefix: str) -> GainedConv:
    return GainedConv(_conv(part(state, f"{prefix}conv."), 0), state[f"{prefix}scale"].flatten())


class GainedConv(nn.Module):
    """A convolution of its input with a border of ones, times a learned gain ``e^{3 g}`` of each channel."""

    def __init__(self, conv: nn.Conv2d, log_gain: Tensor):
        super().__init__()
        self.conv, self.log_gain = conv, nn.Parameter(log_gain.clone().view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(pad(x, [1, 1, 1, 1], value=1.0)) * torch.exp(3 * self.log_gain)


class ShiftBeforeScale(nn.Module):
    """Parameters of ``sigma(s + 2) (x + t)`` as those of ``sigma(s + 2) x + t'``."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = self.network(x).chunk(2, dim=1)
        return torch.cat([scale, shift * torch.sigmoid(scale + 2)], 1)


class DeviationFirst(nn.Module):
    """Mean and log-deviation in the order of `Split`: the deviation first."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        mean, log_std = self.network(x).chunk(2, dim=1)
        return torch.cat([log_std, mean], 1)


class FixedGaussian(Flow):
    """Standardises the last latents by the mean and deviation that a network makes of zeros."""

    def __init__(self, prior: nn.Module):
        super().__init__()
        self.prior = prior

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_std, mean = self.prior(torch.zeros_like(x)).chunk(2, dim=1)
        return (x - mean) * torch.exp(-log_std), -log_std.flatten(1).sum(1)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_std, mean = self.prior(torch.zeros_like(z)).chunk(2, dim=1)
        return z * torch.exp(log_std) + mean, log_std.flatten(1).sum(1)
