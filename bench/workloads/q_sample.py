"""Training batches of an image diffusion model, taken to a noise level of each sample."""

from typing import Any

import torch

from genkern import random
from genkern.ops import q_sample

from ..registry import FORWARD, Function, Inputs, Workload, seeded, shape_name
from ..rivals import with_torch_noise


def with_randn(x0: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """What training loops do: noise by `torch.randn_like`, then the formula."""
    column = (-1, *(1,) * (x0.dim() - 1))
    return alpha.view(column) * x0 + sigma.view(column) * torch.randn_like(x0)


def workload(shape: tuple[int, ...], **description: Any) -> Workload:
    def make(device: torch.device, dtype: torch.dtype) -> Inputs:
        alpha = torch.rand(shape[0], device=device)
        return seeded(shape, device, dtype), alpha, (1 - alpha**2).sqrt(), random.key(0, device=device)

    def run(impl: str) -> Function:
        return lambda x0, alpha, sigma, key: q_sample(x0, alpha, sigma, key=key, impl=impl)

    rivals = with_torch_noise(with_randn, "randn_like")
    return Workload(shape_name(shape), make, run, modes=(FORWARD,), rivals=rivals, **description)


WORKLOADS = [
    workload((64, 3, 64, 64), quick=("eager",)),
    workload((128, 784)),
    workload((4, 8), launch=True),
]
SWEEP = [workload((b, 3, 64, 64)) for b in (1, 8, 64, 512)]
