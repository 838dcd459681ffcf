"""The gated activation in plain PyTorch: the definition that every kernel is compared with."""

from __future__ import annotations

import torch
from torch import Tensor


def gated_activation(x: Tensor, bias: Tensor, condition: Tensor, link: Tensor) -> Tensor:
    """Terms of no elements and one dimension are absent."""
    sites = (1,) * (x.dim() - 2)
    if link.dim() > 1:
        x = x + link
    if bias.shape[0] > 0:
        x = x + bias.reshape(-1, *sites)
    if condition.dim() > 1:
        x = x + condition.reshape(*condition.shape, *sites)
    a, g = x.chunk(2, dim=1)
    return torch.tanh(a) * torch.sigmoid(g)
