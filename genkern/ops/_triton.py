"""What the Triton kernels share: accurate elementary functions, collapsed strides, and ahead-of-time signatures.

Kernels load to float32 (float64 stays), compute there, and round once when they store. None uses libdevice, autotuning
or atomics, so every one also runs under Triton's interpreter and gives the same bits on every launch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


@dataclass(frozen=True)
class AheadOfTime:
    """A kernel with the argument types and constants under which it is compiled without a device."""

    kernel: Any
    signature: dict[str, str]
    constants: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)


def strides(tensor: Tensor) -> tuple[int, int, int]:
    """Strides of [B, C, *] as [B, C, sites]; the last is 0 where the sites do not collapse to one dimension."""
    site, expected = 1, None
    for size, stride in zip(reversed(tensor.shape[2:]), reversed(tensor.stride()[2:]), strict=True):
        if size == 1:
            continue
        if expected is None:
            site, expected = stride, stride * size
        elif stride != expected:
            return tensor.stride(0), tensor.stride(1), 0
        else:
            expected *= size
    return tensor.stride(0), tensor.stride(1), site


def collapsible(tensor: Tensor) -> Tensor:
    """The tensor itself where its sites collapse, else a contiguous copy."""
    return tensor if strides(tensor)[2] != 0 or not tensor.numel() else tensor.contiguous()


def wide(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


@triton.jit
def exp(x):
    """e^x to about an ulp: the hardware's exponential is only accurate near 0."""
    x = tl.minimum(tl.maximum(x, -800.0), 800.0)
    n = tl.floor(x * 1.4426950408889634 + 0.5)
    r = (x - n * 0.693145751953125) - n * 1.4286068203094172e-06
    half = tl.floor(n * 0.5)
    return tl.exp(r) * tl.exp2(half) * tl.exp2(n - half)


@triton.jit
def log1p_nonnegative(q):
    """ln(1 + q) for q >= 0, exact in relative terms also for tiny q."""
    u = 1.0 + q
    return tl.log(u) + tl.where(q < 1.0, q - (u - 1.0), 1.0 - (u - q)) / u


@triton.jit
def tanh(x):
    """From e^-2|x|; near 0, where that cancels, a polynomial (float32) or Kahan's correction (float64)."""
    y = -2.0 * tl.abs(x)
    u = exp(y)
    far = (1.0 - u) / (1.0 + u)
    if x.dtype == tl.float32:
        z = x * x
        p = (-5.70498872745e-3 * z + 2.06390887954e-2) * z - 5.37397155531e-2
        p = (p * z + 1.33314422036e-1) * z - 3.33332819422e-1
        near = tl.abs(x) + tl.abs(x) * z * p
    else:
        m = tl.where(u == 1.0, y, (u - 1.0) * y / tl.log(tl.where(u == 1.0, 0.5, tl.maximum(u, 1e-300))))
        near = -m / (2.0 + m)
    t = tl.where(tl.abs(x) < 0.625, near, far)
    return tl.where(x < 0, -t, t)
