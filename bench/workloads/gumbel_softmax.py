"""Discrete latents: a map of codes, tokens of a vocabulary, and a few small categoricals.

The rivals draw their noise by torch: its own function, and a formula compiled around noise from outside.
"""

from typing import Any

import torch

from genkern import random
from genkern.ops import gumbel_softmax

from ..registry import Function, Inputs, Rival, Workload, seeded, shape_name
from ..rivals import with_fallback

TEMPERATURE = 0.7


def plain(dim: int) -> Function:
    return lambda key, logits: torch.nn.functional.gumbel_softmax(logits, TEMPERATURE, dim=dim)


def compiled(dim: int) -> Function:
    inner = torch.compile(lambda noise, logits: ((logits - noise.log()) / TEMPERATURE).softmax(dim))
    return lambda key, logits: inner(torch.empty_like(logits).exponential_(), logits)


def workload(shape: tuple[int, ...], dim: int, **description: Any) -> Workload:
    def make(device: torch.device, dtype: torch.dtype) -> Inputs:
        return random.key(0, device=device), seeded(shape, device, dtype)

    def run(impl: str) -> Function:
        return lambda key, logits: gumbel_softmax(logits, TEMPERATURE, dim=dim, key=key, impl=impl)

    rivals = {
        "torch's own": Rival(lambda: plain(dim), same_values=False),
        "torch's own, compiled": Rival(lambda: torch.compile(plain(dim), dynamic=False), same_values=False),
        "torch's own, compiled, fallback RNG": Rival(lambda: with_fallback(plain(dim)), same_values=False),
        "noise + compile": Rival(lambda: compiled(dim), same_values=False),
    }
    return Workload(f"{shape_name(shape)} dim {dim}", make, run, rivals=rivals, **description)


WORKLOADS = [
    workload((16, 512, 16, 16), dim=1, quick=("eager",)),
    workload((64, 64, 512), dim=-1),
    workload((4096, 20, 10), dim=-1),
    workload((4, 8), dim=-1, launch=True),
]
SWEEP = [workload((b, 64, 512), dim=-1) for b in (1, 4, 16, 64)]
