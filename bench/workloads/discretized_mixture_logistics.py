"""The loss of PixelCNN++: ten logistics for every pixel of 32x32 pictures, in colour and in grey."""

import torch
from torch import Tensor

from genkern.ops import discretized_mixture_logistics

from ..registry import Function, Inputs, Workload, seeded, shape_name


def workload(shape: tuple[int, ...], components: int, **description: object) -> Workload:
    channels = shape[1]

    def make(device: torch.device, dtype: torch.dtype) -> Inputs:
        planes = components * (3 if channels == 1 else 10)
        params = seeded((shape[0], planes, *shape[2:]), device, dtype)
        return params, torch.randint(0, 256, shape).to(device, torch.uint8)

    def run(impl: str) -> Function:
        def apply(params: Tensor, x: Tensor) -> Tensor:
            return discretized_mixture_logistics(params, x, impl=impl)

        return apply

    return Workload(f"{shape_name(shape)} K={components}", make, run, **description)  # type: ignore[arg-type]


WORKLOADS = [
    workload((32, 3, 32, 32), 10, quick=("eager", "compile")),
    workload((64, 1, 28, 28), 10),
    workload((1, 1, 2, 2), 2, launch=True),
]
SWEEP = [workload((b, 3, 32, 32), 10) for b in (1, 4, 16, 64)]
