"""One step of Glow, layer by layer: what a user's training loop sees of the kernels beside the networks."""

from typing import Any

import torch
from torch import Tensor, nn

from genkern.nn import AffineCoupling, FlowSequential, InvertibleConv1x1
from genkern.ops import actnorm, affine_coupling, invertible_conv1x1

from ..registry import Function, Inputs, Rival, Workload, seeded, shape_name


def step(channels: int, hidden: int) -> FlowSequential:
    half = channels // 2
    network = nn.Sequential(
        nn.Conv2d(half, hidden, 3, padding=1), nn.ReLU(), nn.Conv2d(hidden, hidden, 1), nn.ReLU(),
        nn.Conv2d(hidden, channels, 3, padding=1),
    )  # fmt: skip
    conv = InvertibleConv1x1(channels, "free", actnorm=True)
    flow = FlowSequential(conv, AffineCoupling(network))
    return flow.eval()


def plain(x: Tensor, flow: Any) -> tuple[Tensor, Tensor]:
    """The same step as anyone would write it."""
    conv, coupling = flow.layers
    x, first = actnorm(x, conv.actnorm.log_scale, conv.actnorm.bias, impl="torch")
    x, second = invertible_conv1x1(x, conv.weight, impl="torch")
    y, third = affine_coupling(x, coupling.network(coupling.passive(x)), impl="torch")
    return y, first + second + third


def workload(shape: tuple[int, ...], hidden: int) -> Workload:
    def make(device: torch.device, dtype: torch.dtype) -> Inputs:
        return seeded(shape, device, dtype), step(shape[1], hidden).to(device, dtype)

    def run(impl: str) -> Function:
        return plain if impl == "torch" else (lambda x, flow: flow(x))

    compiled = Rival(lambda: torch.compile(run("auto"), dynamic=False))  # the step is mostly its network's convolutions
    half = shape[1] // 2
    network = 9 * half * hidden + hidden * hidden + 9 * hidden * shape[1]
    flops = 2 * shape[0] * shape[2] * shape[3] * (network + shape[1] ** 2)
    return Workload(
        f"hidden {hidden}, {shape_name(shape)}", make, run, flops=flops, rivals={"genkern compiled": compiled}
    )


WORKLOADS = [workload((64, 48, 16, 16), hidden=64), workload((64, 12, 16, 16), hidden=128)]
SWEEP = [workload((b, 12, 16, 16), hidden=64) for b in (1, 4, 16, 64)]
REASONS = {
    "compile": "most of the step is the coupling network's convolutions, whose layout and ReLUs Inductor arranges; a"
    " user who compiles has genkern's step compiled too, which is `genkern compiled`",
}
