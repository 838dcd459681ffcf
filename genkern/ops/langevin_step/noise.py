"""The definitions together with the noise that they draw."""

from __future__ import annotations

import torch
from torch import Tensor

from .._library import wide_dtype
from ..random import normal
from . import reference


def langevin_step(
    x: Tensor,
    grad: Tensor,
    key: Tensor,
    step: Tensor | None,
    scale: Tensor | None,
    step_number: float,
    scale_number: float,
    clamp_grad: float | None,
    low: float | None,
    high: float | None,
    noise_first: bool,
    sample_offset: int,
) -> Tensor:
    z = normal(key, x.shape, dtype=wide_dtype(x.dtype), sample_offset=sample_offset)
    a, b = step_number if step is None else step, scale_number if scale is None else scale
    return reference.langevin_step(x, grad, z, a, b, clamp_grad, low, high, noise_first)


def langevin_norms(grad: Tensor, key: Tensor, sample_offset: int) -> tuple[Tensor, Tensor]:
    wide = wide_dtype(grad.dtype)
    z = normal(key, grad.shape, dtype=wide, sample_offset=sample_offset)
    return reference.langevin_norms(grad.to(wide), z)


def fake_step(x: Tensor, *rest: object) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def fake_norms(grad: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
    empty = torch.empty(grad.shape[:1], dtype=wide_dtype(grad.dtype), device=grad.device)
    return empty, torch.empty_like(empty)
