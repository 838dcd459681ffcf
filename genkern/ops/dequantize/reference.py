"""Dequantisation in plain PyTorch: the definition that every kernel is compared with.

Level x owns the floating-point numbers in [x / L, (x + 1) / L), both ends rounded: noise never leaves them, and
`quantize` looks for them, so that it gives x back exactly.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def dequantize(
    x: Tensor, u: Tensor, levels: int, alpha: float | None, margin: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Of noise `u` like `x` in (0, 1); logits keep `margin` from the ends of their level."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    level, steps = x.to(wide), torch.full((), levels, dtype=wide, device=x.device)  # a tensor: divided, not multiplied
    low, high = level / steps, (level + 1) / steps
    y = torch.minimum((level + u.to(wide)) / steps, torch.nextafter(high, torch.zeros_like(high)))
    term = torch.zeros_like(y)
    if alpha is not None:
        y, term = logit(torch.minimum(torch.maximum(y, low + margin), high - margin), alpha)
    valid = (level >= 0) & (level < levels)
    y = y.masked_fill(~valid, math.nan).to(dtype)
    term = term if alpha is None else term.masked_fill(~valid, math.nan)
    return y, (term - math.log(levels)).reshape(x.shape[0], x.shape[1:].numel()).sum(1)


def quantize(y: Tensor, levels: int, alpha: float | None, dtype: torch.dtype) -> Tensor:
    if alpha is not None:
        y, _ = inverse_logit(y, alpha)
    steps = torch.full((), levels, dtype=y.dtype, device=y.device)
    level = (y * steps).nan_to_num(0.0).clamp(0, levels - 1).floor()
    level = level - ((level > 0) & (y < level / steps)).to(y.dtype)
    level = level + ((level < levels - 1) & (y >= (level + 1) / steps)).to(y.dtype)
    return level.to(dtype)


def logit(y: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """ln p - ln(1 - p) of p = alpha + (1 - 2 alpha) y, and the logarithm of its derivative."""
    p = torch.log(alpha + (1 - 2 * alpha) * y)
    q = torch.log(alpha + (1 - 2 * alpha) * (1 - y))
    return p - q, math.log1p(-2 * alpha) - (p + q)


def inverse_logit(z: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """y of `logit`, and the logarithm of its derivative."""
    logsigmoid = torch.nn.functional.logsigmoid
    y = (torch.sigmoid(z) - alpha) / (1 - 2 * alpha)
    return y, logsigmoid(z) + logsigmoid(-z) - math.log1p(-2 * alpha)
