"""The nonlinearity of PixelCNN++: small maps of a narrow model, and those of 32x32 pictures."""

import torch

from genkern.ops import concat_elu

from ..registry import Function, Inputs, Workload, seeded, shape_name


def workload(shape: tuple[int, ...], **description: object) -> Workload:
    def make(device: torch.device, dtype: torch.dtype) -> Inputs:
        return (seeded(shape, device, dtype),)

    def run(impl: str) -> Function:
        return lambda x: concat_elu(x, impl=impl)

    return Workload(shape_name(shape), make, run, **description)  # type: ignore[arg-type]


WORKLOADS = [
    workload((16, 160, 32, 32), quick=("eager", "compile")),
    workload((64, 32, 8, 8)),
    workload((1, 8), launch=True),
]
SWEEP = [workload((b, 64, 16, 16)) for b in (1, 4, 16, 64)]
