"""Log-densities of latents: the standard normal of a last level, and the learned prior of a split."""

from typing import Any

import torch

from genkern.ops import gaussian_log_prob

from ..registry import Function, Inputs, Workload, seeded, shape_name


def workload(shape: tuple[int, ...], prior: bool, **description: Any) -> Workload:
    def make(device: torch.device, dtype: torch.dtype) -> Inputs:
        parameters = (seeded(shape, device, dtype), 0.3 * seeded(shape, device, dtype)) if prior else ()
        return seeded(shape, device, dtype), *parameters

    def run(impl: str) -> Function:
        return lambda x, *parameters: gaussian_log_prob(x, *parameters, impl=impl)

    return Workload(f"{'learned' if prior else 'standard'} {shape_name(shape)}", make, run, **description)


WORKLOADS = [
    workload((64, 48, 16, 16), prior=False, quick=("eager",)),
    workload((64, 24, 16, 16), prior=True),
    workload((4096, 64), prior=False),
    workload((4, 8), prior=True, launch=True),
]
SWEEP = [workload((b, 48, 16, 16), prior=False) for b in (1, 4, 16, 64, 256)]
