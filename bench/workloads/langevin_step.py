"""A step of Langevin dynamics with its noise: NCSN's, IGEBM's with clamps, the corrector of a score SDE."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from genkern import random
from genkern.ops import langevin_snr_step, langevin_step

from ..registry import FORWARD, Function, Inputs, Workload, seeded, shape_name
from ..rivals import with_torch_noise

STEP, SCALE = 0.01, 0.1


def with_randn(x: Tensor, grad: Tensor, key: Tensor) -> Tensor:
    return x + STEP * grad + SCALE * torch.randn_like(x)


def igebm_with_randn(x: Tensor, grad: Tensor, key: Tensor) -> Tensor:
    return (x + 10 * grad.clamp(-0.01, 0.01)).clamp(0, 1) + 0.005 * torch.randn_like(x)


def corrector_with_randn(x: Tensor, grad: Tensor, key: Tensor) -> Tensor:
    z = torch.randn_like(x)
    ratio = z.flatten(1).norm(dim=1).mean() / grad.flatten(1).norm(dim=1).mean()
    step = 2 * (0.16 * ratio).square()
    return x + step * grad + (2 * step).sqrt() * z


def workload(
    name: str, shape: tuple[int, ...], run: Callable[[str], Function], randn: Function, **more: Any
) -> Workload:
    def make(device: torch.device, dtype: torch.dtype) -> Inputs:
        return seeded(shape, device, dtype), seeded(shape, device, dtype), random.key(0, device=device)

    rivals = with_torch_noise(randn)
    return Workload(f"{name} {shape_name(shape)}", make, run, modes=(FORWARD,), rivals=rivals, **more)


def plain(impl: str) -> Function:
    return lambda x, grad, key: langevin_step(x, grad, STEP, SCALE, key=key, impl=impl)


def igebm(impl: str) -> Function:
    return lambda x, grad, key: langevin_step(
        x, grad, 10, 0.005, key=key, clamp_grad=0.01, clamp=(0, 1), order="noise-first", impl=impl
    )


def corrector(impl: str) -> Function:
    return lambda x, grad, key: langevin_snr_step(x, grad, 0.16, key=key, impl=impl)[0]


WORKLOADS = [
    workload("plain", (64, 3, 64, 64), plain, with_randn, quick=("eager",)),
    workload("igebm", (64, 3, 32, 32), igebm, igebm_with_randn),
    workload("corrector", (64, 3, 64, 64), corrector, corrector_with_randn),
    workload("plain", (4, 2), plain, with_randn, launch=True),
]
SWEEP = [workload("plain", (b, 3, 64, 64), plain, with_randn) for b in (1, 8, 64, 256)]
