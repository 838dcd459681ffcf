"""Losses of a denoising network over training batches of images, the target made from the key."""

from typing import Any

import torch

from genkern import random
from genkern.ops import diffusion_loss

from ..registry import Function, Inputs, Workload, seeded, shape_name
from ..rivals import with_torch_noise


def with_randn(prediction_type: str) -> Function:
    """What a training loop writes, the noise kept for the backward pass."""

    def apply(output: torch.Tensor, x0: torch.Tensor, alpha: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        target = torch.randn_like(output)
        if prediction_type == "v_prediction":
            a = alpha.detach().view(-1, *[1] * (x0.dim() - 1))
            target = a * target - (1 - a**2).sqrt() * x0.detach()
        return (output - target).square().flatten(1).mean(1)

    return apply


def workload(shape: tuple[int, ...], prediction_type: str, **description: Any) -> Workload:
    def make(device: torch.device, dtype: torch.dtype) -> Inputs:
        alpha = torch.rand(shape[0], device=device)
        return *(seeded(shape, device, dtype) for _ in range(2)), alpha, random.key(0, device=device)

    def run(impl: str) -> Function:
        def apply(output: torch.Tensor, x0: torch.Tensor, alpha: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
            alpha = alpha.detach()  # of a schedule that is not learned
            sigma = (1 - alpha**2).sqrt()
            return diffusion_loss(
                output, x0.detach(), alpha, sigma, prediction_type=prediction_type, key=key, impl=impl
            )

        return apply

    name = f"{prediction_type} {shape_name(shape)}"
    return Workload(name, make, run, rivals=with_torch_noise(with_randn(prediction_type)), **description)


WORKLOADS = [
    workload((64, 3, 64, 64), "epsilon", quick=("eager",)),
    workload((64, 3, 64, 64), "v_prediction"),
    workload((4, 8), "epsilon", launch=True),
]
SWEEP = [workload((b, 3, 64, 64), "epsilon") for b in (1, 8, 64, 512)]
