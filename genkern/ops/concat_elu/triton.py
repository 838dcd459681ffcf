"""Concatenated ELU on GPUs: one exponential for both halves."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import _triton
from .._triton import AheadOfTime

TILE = 1024


@triton.jit
def _place(i, channels, sites, CHANNELS_INNER: tl.constexpr):
    """Sample, channel and site of the i-th element, in the order in which memory is contiguous."""
    row = i // (channels * sites)
    e = i % (channels * sites)
    if CHANNELS_INNER:
        return row, e % channels, e // channels
    else:
        return row, e // sites, e % sites


# one program: TILE elements of x
@triton.jit
def _forward(x, y, total, channels, sites, xb, xc, xs, yb, yc, ys, CHANNELS_INNER: tl.constexpr, ACC: tl.constexpr,
             TILE: tl.constexpr):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    keep = i < total
    b, c, s = _place(i, channels, sites, CHANNELS_INNER)
    value = tl.load(x + b * xb + c * xc + s * xs, keep, other=0).to(ACC)
    t = _triton.tanh(tl.abs(value) * 0.5)
    m = -2.0 * t / (1.0 + t)  # e^-|x| - 1
    m = tl.where(value != value, value, m)
    to = y + b * yb + c * yc + s * ys
    tl.store(to, tl.where(value > 0, value, m).to(y.dtype.element_ty), keep)
    tl.store(to + channels * yc, tl.where(value < 0, -value, m).to(y.dtype.element_ty), keep)


@triton.jit
def _backward(grad_y, x, grad_x, total, channels, sites, gb, gc, gs, xb, xc, xs, qb, qc, qs,
              CHANNELS_INNER: tl.constexpr, ACC: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    keep = i < total
    b, c, s = _place(i, channels, sites, CHANNELS_INNER)
    value = tl.load(x + b * xb + c * xc + s * xs, keep, other=0).to(ACC)
    at = grad_y + b * gb + c * gc + s * gs
    first = tl.load(at, keep, other=0).to(ACC)
    second = tl.load(at + channels * gc, keep, other=0).to(ACC)
    slope = _triton.exp(-tl.abs(value))
    grad = tl.where(value > 0, first, first * slope) - tl.where(value < 0, second, second * slope)
    tl.store(grad_x + b * qb + c * qc + s * qs, grad.to(grad_x.dtype.element_ty), keep)


_ACC = {torch.float32: tl.float32, torch.float64: tl.float64}


def _plan(x: Tensor) -> tuple[tuple[int, int, int], tuple[int], dict[str, Any]]:
    inner = int(x.dim() > 2 and _triton.strides(x)[2] != 1)
    constants = {"CHANNELS_INNER": inner, "ACC": _ACC[_triton.wide(x)], "TILE": TILE}
    return (x.numel(), x.shape[1], x.shape[2:].numel()), (triton.cdiv(x.numel(), TILE),), constants


def concat_elu(x: Tensor) -> Tensor:
    x = _triton.collapsible(x)
    y = torch.cat([x, x], dim=1) if not x.numel() else _doubled(x)
    if x.numel():
        sizes, grid, constants = _plan(x)
        _forward[grid](x, y, *sizes, *_triton.strides(x), *_triton.strides(y), **constants)
    return y


def _doubled(x: Tensor) -> Tensor:
    """[B, 2C, *] in the order of x."""
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    order = torch.channels_last if last else torch.contiguous_format
    shape = (x.shape[0], 2 * x.shape[1], *x.shape[2:])
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=order)


def concat_elu_backward(grad_y: Tensor, x: Tensor) -> Tensor:
    x, grad_y = _triton.collapsible(x), _triton.collapsible(grad_y)
    grad_x = torch.empty_like(x)
    if x.numel():
        sizes, grid, constants = _plan(x)
        _backward[grid](grad_y, x, grad_x, *sizes, *_triton.strides(grad_y), *_triton.strides(x),
                        *_triton.strides(grad_x), **constants)  # fmt: skip
    return grad_x


def _ahead_of_time(kernel: Any) -> AheadOfTime:
    constants = {"CHANNELS_INNER": 0, "ACC": tl.float32, "TILE": TILE}
    pointers = dict.fromkeys(("x", "y", "grad_y", "grad_x"), "*bf16")
    signature = {name: pointers.get(name, "i64") for name in kernel.arg_names if name not in constants}
    return AheadOfTime(kernel, signature, constants)


AHEAD_OF_TIME = [_ahead_of_time(_forward), _ahead_of_time(_backward)]
