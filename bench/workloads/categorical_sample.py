"""Draws of all pixels of a picture from 256-way logits (a pass of Jacobi sampling), and of tokens from a codebook."""

import torch
from torch import Tensor

from genkern.ops import categorical_sample

from ..registry import FORWARD, Function, Inputs, Workload, seeded, shape_name


def workload(shape: tuple[int, ...], dim: int, **description: object) -> Workload:
    def make(device: torch.device, dtype: torch.dtype) -> Inputs:
        rest = [size for i, size in enumerate(shape) if i != dim % len(shape)]
        return seeded(shape, device, dtype), torch.rand(rest).to(device)

    def run(impl: str) -> Function:
        def apply(logits: Tensor, noise: Tensor) -> Tensor:
            return categorical_sample(logits, dim=dim, noise=noise, impl=impl)[1]

        return apply

    return Workload(shape_name(shape), make, run, modes=(FORWARD,), **description)  # type: ignore[arg-type]


WORKLOADS = [workload((16, 256, 3, 16, 16), 1, quick=("eager", "compile")), workload((64, 256, 512), -1)]
