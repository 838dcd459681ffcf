"""Latents of VAEs: maps of a hierarchical model, against the unit prior and a learned one, and vectors.

Eager and compiled PyTorch have genkern's own noise here. The rivals draw theirs by `torch.randn`: in eager mode, inside
of what is compiled, and outside of it.
"""

from typing import Any

import torch
from torch import Tensor

from genkern import random
from genkern.ops import reparameterize

from ..registry import Function, Inputs, Rival, Workload, seeded, shape_name
from ..rivals import with_fallback


def formula(noise: Tensor, mean: Tensor, logvar: Tensor, prior_mean: Any = 0.0, prior_logvar: Any = 0.0) -> Any:
    z = mean + (0.5 * logvar).exp() * noise
    ratio, d = logvar - prior_logvar, mean - prior_mean
    precision = (-prior_logvar).exp() if isinstance(prior_logvar, Tensor) else 1.0
    return z, 0.5 * (d * d * precision + ratio.exp() - 1 - ratio).flatten(1).sum(1)


def plain() -> Function:
    return lambda key, mean, *rest: formula(torch.randn_like(mean), mean, *rest)


def compiled_whole() -> Function:
    return torch.compile(lambda key, mean, *rest: formula(torch.randn_like(mean), mean, *rest))


def compiled() -> Function:
    inner = torch.compile(formula)
    return lambda key, mean, *rest: inner(torch.randn_like(mean), mean, *rest)


RIVALS = {
    "plain eager": Rival(plain, same_values=False),
    "plain compiled": Rival(compiled_whole, same_values=False),
    "plain compiled, fallback RNG": Rival(lambda: with_fallback(plain()), same_values=False),
    "randn, then compiled": Rival(compiled, same_values=False),
}


def workload(shape: tuple[int, ...], prior: bool, **description: Any) -> Workload:
    def make(device: torch.device, dtype: torch.dtype) -> Inputs:
        parameters = [0.5 * seeded(shape, device, dtype) for _ in range(4 if prior else 2)]
        return random.key(0, device=device), *parameters

    def run(impl: str) -> Function:
        return lambda key, *parameters: reparameterize(*parameters, key=key, impl=impl)

    return Workload(f"{'learned' if prior else 'unit'} prior {shape_name(shape)}", make, run, rivals=RIVALS,
                    **description)  # fmt: skip


WORKLOADS = [
    workload((64, 16, 32, 32), prior=False, quick=("eager",)),
    workload((64, 16, 32, 32), prior=True),
    workload((4096, 64), prior=False),
    workload((4, 8), prior=False, launch=True),
]
SWEEP = [workload((b, 16, 32, 32), prior=False) for b in (1, 4, 16, 64)]
