"""Activation normalisation in plain PyTorch: the definition that every kernel is compared with."""

from __future__ import annotations

import torch
from torch import Tensor


def actnorm(x: Tensor, log_scale: Tensor, before: Tensor, after: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
    """y = e^s (x + before) + after for each channel of [B, C, *], or its inverse."""
    sites = x.shape[2:].numel()
    before, after = (shift.reshape(-1, *(1 for _ in x.shape[2:])) for shift in (before, after))
    if inverse:
        log_scale = -log_scale
        before, after = -after, -before
    half = torch.exp(log_scale / 2).reshape(before.shape)  # twice: e^100 alone is infinite in float32
    y = (x + before) * half * half + after
    return y, (sites * log_scale.sum()).repeat(x.shape[0])
