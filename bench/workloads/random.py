"""Noise that depends on key, sample and element alone, beside torch's own generators."""

from typing import Any

import torch

from genkern import random

from ..registry import FORWARD, Function, Inputs, Rival, Workload, shape_name

DRAWS = {"normal": (random.normal, torch.randn), "uniform": (random.uniform, torch.rand)}


def workload(kind: str, shape: tuple[int, ...], **description: Any) -> Workload:
    ours, theirs = DRAWS[kind]

    def make(device: torch.device, dtype: torch.dtype) -> Inputs:
        return (random.key(0, device=device),)

    def run(impl: str) -> Function:
        return lambda key: ours(key, shape, impl=impl)

    def rival() -> Function:
        return lambda key: theirs(shape, device=key.device)

    rivals = {f"torch.{theirs.__name__}": Rival(rival, same_values=False)}
    return Workload(f"{kind} {shape_name(shape)}", make, run, modes=(FORWARD,), rivals=rivals, **description)


WORKLOADS = [
    workload("normal", (64, 3, 64, 64), quick=("torch.randn",)),
    workload("uniform", (64, 3, 64, 64)),
    workload("normal", (4, 4), launch=True),
]
SWEEP = [workload("normal", (b, 3, 64, 64)) for b in (1, 8, 64, 512)]
