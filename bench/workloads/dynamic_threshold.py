"""Dynamic thresholds of 64x64 pictures, beside the quantile that sorts them."""

from typing import Any

import torch

from genkern.ops import dynamic_threshold

from ..registry import FORWARD, Function, Inputs, Rival, Workload, seeded, shape_name


def quantile() -> Function:
    return lambda x: torch.quantile(x.flatten(1).abs(), 0.995, dim=1)


def workload(shape: tuple[int, ...], **description: Any) -> Workload:
    def make(device: torch.device, dtype: torch.dtype) -> Inputs:
        return (seeded(shape, device, dtype),)

    def run(impl: str) -> Function:
        return lambda x: dynamic_threshold(x, 0.995, minimum=0.0, impl=impl)

    rivals = {"torch.quantile": Rival(quantile, same_values=False)}
    return Workload(shape_name(shape), make, run, modes=(FORWARD,), rivals=rivals, **description)


WORKLOADS = [
    workload((64, 3, 64, 64), quick=("torch.quantile",)),
    workload((4, 3, 8, 8), launch=True),
]
SWEEP = [workload((b, 3, 64, 64)) for b in (1, 8, 64, 256)]
