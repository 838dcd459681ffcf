"""A planar layer on 2-D toys and on 64 numbers, and one whose parameters an encoder gives for each sample."""

from typing import Any

import torch

from genkern.ops import planar

from ..registry import FORWARD, MODES, Function, Inputs, Workload, seeded, shape_name


def workload(batch: int, size: int, each: bool = False, inverse: bool = False, **description: Any) -> Workload:
    def make(device: torch.device, dtype: torch.dtype) -> Inputs:
        rows = (batch,) if each else ()
        u, w = (seeded((*rows, size), device, dtype) / size**0.5 for _ in range(2))
        return seeded((batch, size), device, dtype), u, w, seeded(rows, device, dtype)

    def run(impl: str) -> Function:
        return lambda x, u, w, b: planar(x, u, w, b, inverse=inverse, impl=impl)

    kind = "each " if each else ""
    name = f"{kind}{'inverse ' if inverse else ''}{shape_name((batch, size))}"
    return Workload(name, make, run, modes=(FORWARD,) if inverse else MODES, **description)


WORKLOADS = [
    workload(4096, 2),
    workload(4096, 64, quick=("eager", "compile")),
    workload(4096, 64, each=True),
    workload(4096, 2, inverse=True),
    workload(4096, 64, inverse=True),
    workload(4, 8, launch=True),
]
SWEEP = [workload(b, 64) for b in (16, 256, 4096, 65536)]
REASONS = {
    "compile": "4096 points of two numbers are 32 kB: the time is that of the call, and a compiled call is shorter",
}
