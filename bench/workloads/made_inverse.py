"""Sampling from a masked autoregressive flow of 64 numbers: the recursion against one network pass and others."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genkern.nn import MADE, MaskedAutoregressive
from genkern.nn.flows.autoregressive import by_passes, solve_by_steps

from ..registry import FORWARD, MODES, Function, Inputs, Rival, Workload, seeded

FEATURES, HIDDEN = 64, (256, 256)


def one_pass() -> Function:
    """The density direction: the unit in which the recursion is to be measured."""
    return lambda z, flow: flow(z)


def passes() -> Function:
    """D passes of the whole network."""
    return lambda z, flow: by_passes(flow, z)


RIVALS = {
    "one pass": Rival(one_pass, same_values=False),
    "D passes": Rival(passes, modes=(FORWARD,)),
}


def workload(batch: int, **description: Any) -> Workload:
    def make(device: torch.device, dtype: torch.dtype) -> Inputs:
        flow = MaskedAutoregressive(MADE(FEATURES, HIDDEN, outputs=2))
        return seeded((batch, FEATURES), device, dtype), flow.to(device, dtype)

    def steps(z: Tensor, flow: MaskedAutoregressive) -> tuple[Tensor, Tensor]:
        return solve_by_steps(flow.network, flow.transform, z, None)  # type: ignore[arg-type]

    def run(impl: str) -> Function:
        return steps if impl == "torch" else (lambda z, flow: flow.inverse(z))

    weights = FEATURES * HIDDEN[0] + HIDDEN[0] * HIDDEN[1] + 2 * FEATURES * HIDDEN[1]
    return Workload(f"batch {batch}", make, run, flops=batch * weights, rivals=RIVALS, **description)


WORKLOADS = [
    workload(1024, quick=("eager", "one pass"), modes=MODES, compiles=(FORWARD,)),  # 64 steps are traced one by one
    workload(128, compiles=()),
    workload(1, modes=(FORWARD,), launch=True, compiles=()),
]
SWEEP = [workload(b, modes=(FORWARD,)) for b in (1, 16, 128, 1024)]
REASONS = {
    "one pass": "it is the density direction, one pass of the network, which is the least that any inverse could cost",
}
