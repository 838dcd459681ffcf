"""Divergences of Gaussians: of posterior and model in a diffusion step's bound, and of latents from the normal."""

from typing import Any

import torch

from genkern.ops import gaussian_kl

from ..registry import Function, Inputs, Workload, seeded, shape_name


def workload(shape: tuple[int, ...], prior: bool, **description: Any) -> Workload:
    def make(device: torch.device, dtype: torch.dtype) -> Inputs:
        return tuple(0.3 * seeded(shape, device, dtype) for _ in range(4 if prior else 2))

    def run(impl: str) -> Function:
        return lambda *tensors: gaussian_kl(*tensors, impl=impl)

    return Workload(f"{'two' if prior else 'standard'} {shape_name(shape)}", make, run, **description)


WORKLOADS = [
    workload((64, 3, 64, 64), prior=True, quick=("eager",)),
    workload((4096, 64), prior=False),
    workload((4, 8), prior=True, launch=True),
]
SWEEP = [workload((b, 3, 64, 64), prior=True) for b in (1, 8, 64, 256)]
