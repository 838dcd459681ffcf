"""Noise into the bins of pixels: uniform (Glow) and under a logit (RealNVP)."""

import math
from typing import Any

import torch

from genkern import random
from genkern.ops import dequantize

from ..registry import FORWARD, Function, Inputs, Workload, shape_name
from ..rivals import with_torch_noise


def with_rand(alpha: float | None) -> Function:
    """What a training loop writes."""

    def apply(x: torch.Tensor, key: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        u = (x + torch.rand(x.shape, device=x.device)) / 256
        count = x[0].numel()
        if alpha is None:
            return u, torch.full((len(x),), -count * math.log(256), device=x.device)
        p = alpha + (1 - 2 * alpha) * u
        slope = math.log((1 - 2 * alpha) / 256) - p.log() - (1 - p).log()
        return p.log() - (1 - p).log(), slope.flatten(1).sum(1)

    return apply


def workload(shape: tuple[int, ...], alpha: float | None, **description: Any) -> Workload:
    def make(device: torch.device, dtype: torch.dtype) -> Inputs:
        return torch.randint(0, 256, shape, dtype=torch.uint8).to(device), random.key(0, device=device)

    def run(impl: str) -> Function:
        return lambda x, key: dequantize(x, 256, alpha=alpha, key=key, impl=impl)

    name = f"{'uniform' if alpha is None else 'logit'} {shape_name(shape)}"
    rivals = with_torch_noise(with_rand(alpha), "rand")
    return Workload(name, make, run, modes=(FORWARD,), rivals=rivals, **description)


WORKLOADS = [
    workload((64, 3, 32, 32), alpha=None, quick=("eager",)),
    workload((64, 3, 32, 32), alpha=0.05),
    workload((4, 1, 2, 2), alpha=None, launch=True),
]
SWEEP = [workload((b, 3, 32, 32), alpha=0.05) for b in (1, 8, 64, 512)]
