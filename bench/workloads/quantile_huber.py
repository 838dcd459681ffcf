"""The loss of PixelIQN on 32x32 pictures."""

import torch
from torch import Tensor

from genkern.ops import quantile_huber

from ..registry import Function, Inputs, Workload, seeded, shape_name


def workload(shape: tuple[int, ...], **description: object) -> Workload:
    def make(device: torch.device, dtype: torch.dtype) -> Inputs:
        return seeded(shape, device, dtype), seeded(shape, device, dtype), torch.rand(shape).to(device, dtype)

    def run(impl: str) -> Function:
        def apply(x: Tensor, q: Tensor, tau: Tensor) -> Tensor:
            return quantile_huber(x.detach(), q, tau.detach(), impl=impl)  # only the quantiles are learnt

        return apply

    return Workload(shape_name(shape), make, run, **description)  # type: ignore[arg-type]


WORKLOADS = [workload((64, 3, 32, 32), quick=("eager", "compile")), workload((4, 8), launch=True)]
SWEEP = [workload((b, 3, 32, 32)) for b in (1, 8, 64, 512)]
