"""The update of a sampler: two tensors in, one out."""

import torch

from genkern.ops.scaled_add import scaled_add

from ..registry import Function, Inputs, Workload, seeded, shape_name


def workload(shape: tuple[int, ...]) -> Workload:
    def make(device: torch.device, dtype: torch.dtype) -> Inputs:
        return seeded(shape, device, dtype), seeded(shape, device, dtype)

    def run(impl: str) -> Function:
        return lambda x, update: scaled_add(x, update, decay=0.9, scale=0.5, impl=impl)

    return Workload(shape_name(shape), make, run, backward_reads=(), quick=("eager", "compile"))


WORKLOADS = [workload((64, 3, 32, 32))]
SWEEP = [workload((b, 3, 32, 32)) for b in (1, 8, 64, 512)]
