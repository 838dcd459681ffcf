"""Scaled addition in plain PyTorch: the definition that every kernel is compared with."""

from __future__ import annotations

from torch import Tensor


def scaled_add(x: Tensor, update: Tensor, decay: float, scale: float) -> Tensor:
    return decay * x + scale * update
