"""Noise into the bins of pixels: uniform (Glow) and under a logit (RealNVP)."""

from typing import Any

import torch

from genkern import random
from genkern.ops import dequantize

from ..registry import FORWARD, Function, Inputs, Workload, shape_name


def workload(shape: tuple[int, ...], alpha: float | None, **description: Any) -> Workload:
    def make(device: torch.device, dtype: torch.dtype) -> Inputs:
        return torch.randint(0, 256, shape, dtype=torch.uint8).to(device), random.key(0, device=device)

    def run(impl: str) -> Function:
        return lambda x, key: dequantize(x, 256, alpha=alpha, key=key, impl=impl)

    name = f"{'uniform' if alpha is None else 'logit'} {shape_name(shape)}"
    return Workload(name, make, run, modes=(FORWARD,), **description)


WORKLOADS = [
    workload((64, 3, 32, 32), alpha=None, quick=("eager",)),
    workload((64, 3, 32, 32), alpha=0.05),
    workload((4, 1, 2, 2), alpha=None, launch=True),
]
SWEEP = [workload((b, 3, 32, 32), alpha=0.05) for b in (1, 8, 64, 512)]
