"""The quantile Huber loss in plain PyTorch: the definition that every kernel is compared with."""

from __future__ import annotations

import torch
from torch import Tensor


def quantile_huber(x: Tensor, q: Tensor, tau: Tensor, kappa: float) -> Tensor:
    u = x - q
    huber = torch.where(u.abs() <= kappa, u.square() / (2 * kappa), u.abs() - kappa / 2)
    return (tau - (u < 0).to(tau.dtype)).abs() * huber
