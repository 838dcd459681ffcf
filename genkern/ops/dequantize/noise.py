"""The definition together with the noise that it draws."""

from __future__ import annotations

import torch
from torch import Tensor

from ..random.reference import random_uniform
from . import reference


def dequantize(
    x: Tensor,
    key: Tensor,
    levels: int,
    alpha: float | None,
    margin: float,
    dtype: torch.dtype,
    sample_offset: int,
) -> tuple[Tensor, Tensor]:
    u = random_uniform(key, x.shape[0], x.shape[1:].numel(), torch.float32, sample_offset)
    return reference.dequantize(x, u.reshape(x.shape), levels, alpha, margin, dtype)
