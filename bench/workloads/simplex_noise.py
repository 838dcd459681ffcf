"""Corruption of a batch of images as in AnoDDPM: six octaves, in two dimensions and as slices of three."""

from typing import Any

import torch

from genkern.ops import simplex_noise

from ..registry import FORWARD, Function, Inputs, Workload, shape_name


def workload(shape: tuple[int, int, int], three: bool, **description: Any) -> Workload:
    def make(device: torch.device, dtype: torch.dtype) -> Inputs:
        seeds = torch.arange(shape[0], device=device)
        return (seeds, 10.0 * seeds.double()) if three else (seeds,)

    def run(impl: str) -> Function:
        def apply(seeds: torch.Tensor, t: torch.Tensor | None = None) -> torch.Tensor:
            return simplex_noise(seeds, shape[1:], t=t, impl=impl)

        return apply

    name = f"{'three' if three else 'two'} dimensions {shape_name(shape)}"
    return Workload(name, make, run, modes=(FORWARD,), compiles=(), **description)


WORKLOADS = [
    workload((4, 256, 256), three=False, quick=("eager",)),
    workload((4, 256, 256), three=True),
    workload((2, 4, 4), three=False, launch=True),
]
SWEEP = [workload((b, 64, 64), three=False) for b in (1, 4, 16, 64)]
