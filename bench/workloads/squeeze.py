"""Space to channels and back, at the door of Glow's first level."""

from typing import Any

import torch

from genkern.ops import squeeze, unsqueeze

from ..registry import Function, Inputs, Workload, seeded, shape_name


def workload(shape: tuple[int, ...], back: bool = False, **description: Any) -> Workload:
    def make(device: torch.device, dtype: torch.dtype) -> Inputs:
        return (seeded(shape, device, dtype),)

    def run(impl: str) -> Function:
        function = unsqueeze if back else squeeze
        return lambda x: function(x, impl=impl)

    return Workload(f"{'back ' if back else ''}{shape_name(shape)}", make, run, backward_reads=(), **description)


WORKLOADS = [
    workload((64, 12, 32, 32), quick=("eager",)),
    workload((64, 48, 16, 16), back=True),
    workload((4, 2, 4, 4), launch=True),
]
SWEEP = [workload((b, 12, 32, 32)) for b in (1, 4, 16, 64, 256)]
REASONS = {
    "eager": "for a few hundred kB the time is that of the call; a view and a copy are short ones of PyTorch's own",
}
