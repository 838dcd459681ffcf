"""Quantiles of magnitudes in plain PyTorch, by sorting: the definition that every kernel is compared with."""

import torch
from torch import Tensor


def dynamic_threshold(x: Tensor, below: int, weight: float, lowest: float, highest: float) -> Tensor:
    """Between the order statistics `below` and `below + 1` of |x|, both counted from 0; NaN where x has one."""
    ordered = x.reshape(x.shape[0], x.shape[1:].numel()).abs().sort(1).values  # NaN last
    low, high = ordered[:, below], ordered[:, min(below + 1, ordered.shape[1] - 1)]
    between = low if weight == 0 else torch.where(high == low, low, low + weight * (high - low))
    return torch.where(ordered[:, -1].isnan(), ordered[:, -1], between).clamp(lowest, highest)
