"""Activation normalisation of Glow's second level, and of vectors."""

from typing import Any

import torch

from genkern.ops import actnorm

from ..registry import FORWARD, MODES, Function, Inputs, Workload, seeded, shape_name


def workload(shape: tuple[int, ...], inverse: bool = False, **description: Any) -> Workload:
    def make(device: torch.device, dtype: torch.dtype) -> Inputs:
        scale, bias = seeded(shape[1:2], device, dtype), seeded(shape[1:2], device, dtype)
        return seeded(shape, device, dtype), 0.1 * scale, bias

    def run(impl: str) -> Function:
        return lambda x, log_scale, bias: actnorm(x, log_scale, bias, inverse=inverse, impl=impl)

    modes = (FORWARD,) if inverse else MODES
    return Workload(f"{'inverse ' if inverse else ''}{shape_name(shape)}", make, run, modes=modes, **description)


WORKLOADS = [
    workload((64, 48, 16, 16), quick=("eager",)),
    workload((4096, 64)),
    workload((64, 48, 16, 16), inverse=True),
    workload((4, 8), launch=True),
]
SWEEP = [workload((b, 48, 16, 16)) for b in (1, 4, 16, 64, 256)]
