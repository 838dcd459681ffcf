"""The radial flow on GPUs: every sample in one program, its sums first and its elements after."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import _triton
from .._triton import AheadOfTime
from .reference import LEAST

TILE, ROWS_MAX = 1024, 16
FLOOR = tl.constexpr(LEAST)


@triton.jit
def _positive(raw):
    """softplus, held from below, and its slope."""
    e = _triton.exp(-tl.abs(raw))
    value = tl.maximum(raw, 0.0) + _triton.log1p_nonnegative(e)
    slope = tl.where(raw >= 0, 1.0, e) / (1.0 + e)
    return tl.maximum(value, FLOOR), tl.where(value < FLOOR, 0.0, slope)


@triton.jit
def _radius_before(r, a, c):
    excess = r - c
    both = tl.abs(excess) + tl.sqrt(excess * excess + 4.0 * a * r)
    return tl.where(excess >= 0, 0.5 * both, 2.0 * a * r / both)


@triton.jit
def _log_of_one_plus(q, numerator, denominator):
    held = tl.maximum(q, -0.5)
    return tl.where(q > -0.5, _triton.log1p_nonnegative(held), tl.log(numerator) - tl.log(denominator))


@triton.jit
def _squares_and_dot(x, center, other, rows, xb, xd, cb, cd, ob, od, batch, size, zero, DOT: tl.constexpr,
                     CHUNKS: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    """|x - x0|^2 and, if DOT, (x - x0) . other, [ROWS, 1]."""
    square, dot = zero, zero
    for i in range(CHUNKS):
        d = i * TILE + tl.arange(0, TILE)[None, :]
        keep = (rows < batch) & (d < size)
        away = tl.load(x + rows * xb + d * xd, keep, other=0).to(zero.dtype)
        away -= tl.load(center + rows * cb + d * cd, keep, other=0).to(zero.dtype)
        square += tl.sum(away * away, axis=1)[:, None]
        if DOT:
            g = tl.load(other + rows * ob + d * od, keep, other=0).to(zero.dtype)
            dot += tl.sum(away * g, axis=1)[:, None]
    return square, dot


# one program: ROWS samples, in CHUNKS pieces of TILE elements
@triton.jit
def _forward(x, center, raw_alpha, raw_beta, y, log_det, batch, size, xb, xd, cb, cd, alpha_step, beta_step,
             INVERSE: tl.constexpr, ACC: tl.constexpr, ROWS: tl.constexpr, CHUNKS: tl.constexpr,
             TILE: tl.constexpr):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]  # [ROWS, 1]
    zero = tl.zeros([ROWS, 1], ACC)
    square, _ = _squares_and_dot(x, center, x, rows, xb, xd, cb, cd, xb, xd, batch, size, zero, False, CHUNKS, TILE)
    a, _ = _positive(tl.load(raw_alpha + rows * alpha_step, rows < batch, other=0).to(ACC))
    c, _ = _positive(tl.load(raw_beta + rows * beta_step, rows < batch, other=0).to(ACC))
    r = tl.sqrt(square)
    if INVERSE:
        r = _radius_before(r, a, c)
    pull, ra, rc = c - a, r + a, r + c
    tangential = _log_of_one_plus(pull / ra, rc, ra)
    outward = _log_of_one_plus(a / ra * (pull / ra), r + (a * r + a * c) / ra, ra)
    total = (size - 1) * tangential + outward
    tl.store(log_det + rows, -total if INVERSE else total, rows < batch)
    step = -pull / rc if INVERSE else pull / ra
    for i in range(CHUNKS):
        d = i * TILE + tl.arange(0, TILE)[None, :]  # [1, TILE]
        keep = (rows < batch) & (d < size)
        value = tl.load(x + rows * xb + d * xd, keep, other=0).to(ACC)
        away = value - tl.load(center + rows * cb + d * cd, keep, other=0).to(ACC)
        tl.store(y + rows * size + d, (value + step * away).to(y.dtype.element_ty), keep)


# one program: as forward; sums over samples go to `partial`, [programs, size + 2], where parameters are shared
@triton.jit
def _backward(grad_y, grad_log_det, x, center, raw_alpha, raw_beta, grad_x, grad_center, grad_alpha, grad_beta, partial,
              batch, size, gb, gd, xb, xd, cb, cd, alpha_step, beta_step,
              INVERSE: tl.constexpr, SHARED: tl.constexpr, ACC: tl.constexpr, ROWS: tl.constexpr,
              CHUNKS: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]  # [ROWS, 1]
    inside = rows < batch
    zero = tl.zeros([ROWS, 1], ACC)
    square, dot = _squares_and_dot(x, center, grad_y, rows, xb, xd, cb, cd, gb, gd, batch, size, zero, True, CHUNKS,
                                   TILE)  # fmt: skip
    a, a_slope = _positive(tl.load(raw_alpha + rows * alpha_step, inside, other=0).to(ACC))
    c, c_slope = _positive(tl.load(raw_beta + rows * beta_step, inside, other=0).to(ACC))
    g_log_det = tl.load(grad_log_det + rows, inside, other=0).to(ACC)
    r_in = tl.sqrt(square)
    r = r_in
    if INVERSE:
        r = _radius_before(r_in, a, c)
    pull, ra, rc = c - a, r + a, r + c
    q = r * (r + 2.0 * a) + a * c
    l_r = -(size - 1) * (pull / rc) / ra - 2.0 * (a / q) * (pull / ra)
    l_c = (size - 1) / rc + a / q
    l_a = -(size - 1) / ra + (c * r - 2.0 * a * r - a * c) / q / ra
    over = tl.where(r_in > 0, 1.0 / tl.where(r_in > 0, r_in, 1.0), 0.0)
    if INVERSE:
        g_r = dot * (pull / rc) / rc - g_log_det * l_r
        g_a = dot / rc - g_log_det * l_a + g_r * (r / q) * rc
        g_c = -dot * (ra / rc) / rc - g_log_det * l_c - g_r * (r / q) * ra
        excess, along = -pull / rc, g_r * (ra / q) * ra * over
    else:
        g_r = -dot * (pull / ra) / ra + g_log_det * l_r
        g_a = -dot * (rc / ra) / ra + g_log_det * l_a
        g_c = dot / ra + g_log_det * l_c
        excess, along = pull / ra, g_r * over
    g_a, g_c = tl.where(inside, g_a * a_slope, 0.0), tl.where(inside, g_c * c_slope, 0.0)
    sums = partial + tl.program_id(0).to(tl.int64) * (size + 2)
    if SHARED:
        tl.store(sums + size, tl.sum(tl.sum(g_a, axis=1), axis=0))
        tl.store(sums + size + 1, tl.sum(tl.sum(g_c, axis=1), axis=0))
    else:
        tl.store(grad_alpha + rows, g_a.to(grad_alpha.dtype.element_ty), inside)
        tl.store(grad_beta + rows, g_c.to(grad_beta.dtype.element_ty), inside)
    for i in range(CHUNKS):
        d = i * TILE + tl.arange(0, TILE)[None, :]  # [1, TILE]
        keep = inside & (d < size)
        g = tl.load(grad_y + rows * gb + d * gd, keep, other=0).to(ACC)
        away = tl.load(x + rows * xb + d * xd, keep, other=0).to(ACC)
        away -= tl.load(center + rows * cb + d * cd, keep, other=0).to(ACC)
        moved = excess * g + along * away
        at = rows * size + d
        tl.store(grad_x + at, (g + moved).to(grad_x.dtype.element_ty), keep)
        if SHARED:
            column = tl.arange(0, TILE) + i * TILE
            tl.store(sums + column, -tl.sum(tl.where(keep, moved, 0.0), axis=0), column < size)
        else:
            tl.store(grad_center + at, (-moved).to(grad_center.dtype.element_ty), keep)


_ACC = {torch.float32: tl.float32, torch.float64: tl.float64}


def _plan(x: Tensor) -> dict[str, Any]:
    size = x.shape[1]
    tile = min(TILE, triton.next_power_of_2(size))
    rows = min(ROWS_MAX, TILE // tile)
    return {"ACC": _ACC[_triton.wide(x)], "ROWS": rows, "CHUNKS": triton.cdiv(size, tile), "TILE": tile}


def _row(tensor: Tensor) -> tuple[int, int]:
    """Strides of [B, D], with 0 for the samples of [D]."""
    return (0, tensor.stride(0)) if tensor.dim() == 1 else (tensor.stride(0), tensor.stride(1))


def _step(scalar: Tensor) -> int:
    return scalar.stride(0) if scalar.dim() else 0


def radial(x: Tensor, center: Tensor, raw_alpha: Tensor, raw_beta: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    log_det = x.new_zeros(x.shape[0], dtype=_triton.wide(x))
    if x.numel():
        plan = _plan(x)
        _forward[(triton.cdiv(x.shape[0], plan["ROWS"]),)](
            x, center, raw_alpha, raw_beta, y, log_det, *x.shape, *_row(x), *_row(center), _step(raw_alpha),
            _step(raw_beta), INVERSE=inverse, **plan,
        )  # fmt: skip
    return y, log_det


def radial_backward(
    grad_y: Tensor,
    grad_log_det: Tensor,
    x: Tensor,
    center: Tensor,
    raw_alpha: Tensor,
    raw_beta: Tensor,
    inverse: bool,
) -> tuple[Tensor, ...]:
    inputs = (x, center, raw_alpha, raw_beta)
    grads = [torch.zeros_like(t, memory_format=torch.contiguous_format) for t in inputs]
    if not x.numel():
        return tuple(grads)
    plan, shared = _plan(x), center.dim() == 1
    programs, size = triton.cdiv(x.shape[0], plan["ROWS"]), x.shape[1]
    partial = x.new_empty(programs if shared else 1, size + 2, dtype=_triton.wide(x))
    _backward[(programs,)](
        grad_y, grad_log_det.contiguous(), *inputs, *grads, partial, *x.shape, *_row(grad_y), *_row(x), *_row(center),
        _step(raw_alpha), _step(raw_beta), INVERSE=inverse, SHARED=shared, **plan,
    )  # fmt: skip
    if not shared:
        return tuple(grads)
    sums = partial.sum(0)
    return grads[0], sums[:size].to(center.dtype), sums[size].to(raw_alpha.dtype), sums[size + 1].to(raw_beta.dtype)


def _ahead_of_time(kernel: triton.JITFunction, shared: bool) -> AheadOfTime:
    constants = {"INVERSE": True, "SHARED": shared, "ACC": tl.float32, "ROWS": 16, "CHUNKS": 1, "TILE": 64}
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    names = ("x", "center", "raw_alpha", "raw_beta", "y", "grad_x", "grad_center", "grad_alpha", "grad_beta", "grad_y")
    pointers = dict.fromkeys(names, "*bf16") | dict.fromkeys(("log_det", "grad_log_det", "partial"), "*fp32")
    signature = {name: pointers.get(name, "i64") for name in kernel.arg_names if name not in constants}
    return AheadOfTime(kernel, signature, constants)


AHEAD_OF_TIME = [_ahead_of_time(_forward, True), _ahead_of_time(_backward, True), _ahead_of_time(_backward, False)]
