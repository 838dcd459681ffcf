"""Affine maps of channels on GPUs: [outer, C, inner] in memory, whatever the order of the tensor's dimensions."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import _triton
from .._triton import AheadOfTime

BLOCK = 1024  # elements of a program that maps
STEPS = 8  # tiles of a program that sums
ACC = {torch.float32: tl.float32, torch.float64: tl.float64}


@triton.jit
def channel_of(start, lane, channels, inner):
    """Channels of the elements start + lane, with one 64-bit division for all of them."""
    row = (start // inner) % channels
    return (row.to(tl.int32) + ((start % inner).to(tl.int32) + lane) // inner.to(tl.int32)) % channels.to(tl.int32)


@triton.jit
def half_factor(scale, c, keep, EXP: tl.constexpr, INVERSE: tl.constexpr, A: tl.constexpr):
    """The square root of e^s, to be multiplied by twice: e^100 alone is infinite in float32."""
    s = tl.load(scale + c, keep, other=0).to(A)
    if EXP:
        s = _triton.exp((-s if INVERSE else s) * 0.5)
    return s


# one program: BLOCK elements; y = e^s (x + before) + after or its inverse; without EXP, scale holds e^(s / 2)
@triton.jit
def _apply(x, y, before, scale, after, total, channels, inner, EXP: tl.constexpr, SHIFT: tl.constexpr,
           INVERSE: tl.constexpr, A: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    start = tl.program_id(0).to(tl.int64) * BLOCK
    lane = tl.arange(0, BLOCK)
    keep = start + lane < total
    c = channel_of(start, lane, channels, inner)
    value = tl.load(x + start + lane, keep, other=0).to(A)
    half = half_factor(scale, c, keep, EXP, INVERSE, A)
    if SHIFT:
        b = tl.load(before + c, keep, other=0).to(A)
        a = tl.load(after + c, keep, other=0).to(A)
        value = (value - a) * half * half - b if INVERSE else (value + b) * half * half + a
    else:
        value = value * half * half
    tl.store(y + start + lane, value.to(y.dtype.element_ty), keep)


# one program: COLUMNS channels x STEPS tiles of ROWS values each; partial sums of g and g (x + center)
@triton.jit
def _reduce(grad_y, x, grad_x, center, scale, partial, rows, channels, inner, WRITE: tl.constexpr,
            INVERSE: tl.constexpr, A: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
            STEPS: tl.constexpr):  # fmt: skip
    c = (tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    shift = tl.load(center + c, c < channels, other=0).to(A)
    half = half_factor(scale, c, c < channels, True, INVERSE, A)
    first = tl.program_id(1).to(tl.int64) * (ROWS * STEPS)
    grads = tl.zeros([ROWS, COLUMNS], A)
    moments = tl.zeros([ROWS, COLUMNS], A)
    for step in range(STEPS):
        row = (first + step * ROWS + tl.arange(0, ROWS))[:, None]
        keep = (row < rows) & (c < channels)
        at = (row // inner * channels + c) * inner + row % inner
        g = tl.load(grad_y + at, keep, other=0).to(A)
        value = tl.load(x + at, keep, other=0).to(A)
        grads += g
        moments += tl.where(keep, g * (value - shift if INVERSE else value + shift), 0.0)
        if WRITE:
            tl.store(grad_x + at, (g * half * half).to(grad_x.dtype.element_ty), keep)
    to = partial + (tl.program_id(1) * channels + c) * 2
    tl.store(to, tl.sum(grads, axis=0)[None, :], c < channels)
    tl.store(to + 1, tl.sum(moments, axis=0)[None, :], c < channels)


# one program: BLOCK channels; partial sums to gradients of the parameters
@triton.jit
def _finish(partial, grad_log_det, log_scale, grad_log_scale, grad_before, grad_after, slots, channels, batch, sites,
            INVERSE: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    c = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    keep = c < channels
    grad = tl.zeros([BLOCK], tl.float64)
    moment = tl.zeros([BLOCK], tl.float64)
    for slot in range(slots):
        grad += tl.load(partial + (slot * channels + c) * 2, keep, other=0).to(tl.float64)
        moment += tl.load(partial + (slot * channels + c) * 2 + 1, keep, other=0).to(tl.float64)
    log_dets = tl.zeros([BLOCK], tl.float64)
    for first in range(0, batch, BLOCK):
        b = first + tl.arange(0, BLOCK)
        log_dets += tl.load(grad_log_det + b, b < batch, other=0).to(tl.float64)
    s = tl.load(log_scale + c, keep, other=0).to(tl.float64)
    factor = _triton.exp(-s if INVERSE else s)
    grad_s = factor * moment + sites * tl.sum(log_dets, axis=0)
    to = grad_log_scale.dtype.element_ty
    tl.store(grad_log_scale + c, (-grad_s if INVERSE else grad_s).to(to), keep)
    tl.store(grad_before + c, (-grad if INVERSE else factor * grad).to(to), keep)
    tl.store(grad_after + c, (-factor * grad if INVERSE else grad).to(to), keep)


# -- launchers -----------------------------------------------------------------------------------------------------


def dense(x: Tensor) -> tuple[Tensor, Tensor]:
    """The tensor, or a copy where it is not dense in some order of its dimensions, and an output laid out like it."""
    output = torch.empty_like(x)
    return in_layout_of(output, x), output


def in_layout_of(like: Tensor, tensor: Tensor) -> Tensor:
    strides = zip(like.shape, like.stride(), tensor.stride(), strict=True)
    return tensor if all(size == 1 or a == b for size, a, b in strides) else torch.empty_like(like).copy_(tensor)


def sizes(x: Tensor) -> tuple[int, int, int]:
    """Number of elements, channels, and neighbours in memory that share a channel."""
    return x.numel(), x.shape[1], x.numel() if x.shape[1] == 1 else x.stride(1)


def tiles(x: Tensor) -> tuple[tuple[int, int], dict[str, int]]:
    """Grid (channels, partial sums) and tile of a kernel that sums over all but the channels."""
    total, channels, inner = sizes(x)
    columns = min(32, triton.next_power_of_2(channels)) if inner == 1 else 1
    rows = min(512 // columns, max(16, triton.next_power_of_2(total // channels)))
    grid = triton.cdiv(channels, columns), triton.cdiv(total // channels, rows * STEPS)
    return grid, {"ROWS": rows, "COLUMNS": columns, "STEPS": STEPS}


def apply(x: Tensor, y: Tensor, before: Tensor, scale: Tensor, after: Tensor, **constants: Any) -> None:
    total, channels, inner = sizes(x)
    constants = {"EXP": True, "SHIFT": True, "INVERSE": False} | constants
    _apply[(triton.cdiv(total, BLOCK),)](
        x, y, before, scale, after, total, channels, inner, A=ACC[_triton.wide(x)], BLOCK=BLOCK, **constants
    )  # fmt: skip


def partial_sums(
    grad_y: Tensor, x: Tensor, grad_x: Tensor | None, center: Tensor, scale: Tensor, inverse: bool
) -> Tensor:
    """[slots, C, 2]: sums of g and g (x + center), and grad_x on the way."""
    total, channels, inner = sizes(x)
    grid, tile = tiles(x)
    partial = x.new_empty(grid[1], channels, 2, dtype=_triton.wide(x))
    _reduce[grid](
        grad_y, x, x if grad_x is None else grad_x, center, scale, partial, total // channels, channels, inner,
        WRITE=grad_x is not None, INVERSE=inverse, A=ACC[partial.dtype], **tile,
    )  # fmt: skip
    return partial


def actnorm(x: Tensor, log_scale: Tensor, before: Tensor, after: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
    log_scale, before, after = (parameter.contiguous() for parameter in (log_scale, before, after))
    x, y = dense(x)
    if x.numel():
        apply(x, y, before, log_scale, after, INVERSE=inverse)
    sites = x.shape[2:].numel()
    return y, (log_scale.sum() * (-sites if inverse else sites)).repeat(x.shape[0])


def actnorm_backward(
    grad_y: Tensor, grad_log_det: Tensor, x: Tensor, log_scale: Tensor, before: Tensor, after: Tensor, inverse: bool,
    needs_x: bool = True, needs_log_scale: bool = True, needs_before: bool = True, needs_after: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    log_scale, before, after = (parameter.contiguous() for parameter in (log_scale, before, after))
    x, grad_x = dense(x)
    grad_y = in_layout_of(x, grad_y)
    grads = [torch.empty_like(parameter) for parameter in (log_scale, before, after)]
    needs = (needs_x, needs_log_scale, needs_before, needs_after)
    if not x.numel():
        for grad in grads:
            grad.zero_()
    elif not any(needs[1:]):
        apply(grad_y, grad_x, before, log_scale, after, SHIFT=False, INVERSE=inverse)
    else:
        center = after if inverse else before
        partial = partial_sums(grad_y, x, grad_x if needs_x else None, center, log_scale, inverse)
        channels = x.shape[1]
        block = min(128, triton.next_power_of_2(channels))
        _finish[(triton.cdiv(channels, block),)](
            partial, grad_log_det.contiguous(), log_scale, *grads, partial.shape[0], channels, x.shape[0],
            x.shape[2:].numel(), INVERSE=inverse, BLOCK=block,
        )  # fmt: skip
    pairs = zip(needs, (grad_x, *grads), strict=True)
    first, second, third, fourth = (grad if needed else grad.new_empty(0) for needed, grad in pairs)
    return first, second, third, fourth


_TYPES = dict.fromkeys(("x", "y", "grad_y", "grad_x"), "*bf16")
_SIZES = dict.fromkeys(("total", "rows", "channels", "inner", "slots", "batch", "sites"), "i64")


def ahead_of_time(kernel: Any, constants: dict[str, Any], integers: dict[str, str] | None = None) -> AheadOfTime:
    given = _TYPES | (_SIZES if integers is None else integers)
    signature = {name: given.get(name, "*fp32") for name in kernel.arg_names if name not in constants}
    return AheadOfTime(kernel, signature, constants)


_TILE = {"ROWS": 512, "COLUMNS": 1, "STEPS": STEPS}
AHEAD_OF_TIME = [
    ahead_of_time(_apply, {"EXP": True, "SHIFT": True, "INVERSE": False, "A": tl.float32, "BLOCK": BLOCK}),
    ahead_of_time(_reduce, {"WRITE": True, "INVERSE": False, "A": tl.float32} | _TILE),
    ahead_of_time(_finish, {"INVERSE": False, "BLOCK": 128}),
]
