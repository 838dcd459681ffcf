"""The planar flow on GPUs: every sample in one program, its sums first and its elements after."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import _triton
from .._triton import AheadOfTime
from .reference import LEAST_S, LEAST_SQUARE, STEPS

TILE, ROWS_MAX = 1024, 16
FLOOR, SQUARE, NEWTON = tl.constexpr(LEAST_S), tl.constexpr(LEAST_SQUARE), tl.constexpr(STEPS)


@triton.jit
def _softplus(x):
    return tl.maximum(x, 0.0) + _triton.log1p_nonnegative(_triton.exp(-tl.abs(x)))


@triton.jit
def _sigmoid(x):
    e = _triton.exp(-tl.abs(x))
    big = 1.0 / (1.0 + e)
    return tl.where(x >= 0, big, e * big)


@triton.jit
def _shape(a, n):
    """k and s of u' = u + k w and s = 1 + w.u', and their derivatives by a = w.u and n = |w|^2."""
    long_enough = n > SQUARE
    q = tl.maximum(n, SQUARE)
    share = tl.where(long_enough, 1.0, n / q)
    excess = _softplus(-a) - 1.0
    s = share * _softplus(a) + (1.0 - share) * (1.0 + a)
    held = s < FLOOR
    s_a = tl.where(held, 0.0, share * _sigmoid(a) + (1.0 - share))
    s_n = tl.where(held | long_enough, 0.0, excess / q)
    return excess / q, tl.maximum(s, FLOOR), s_a, s_n, -_sigmoid(-a) / q, tl.where(long_enough, -excess / (q * q), 0.0)


@triton.jit
def _bend(v, s):
    """tanh v, 1 - tanh^2 v and the determinant."""
    e = _triton.exp(-2.0 * tl.abs(v))
    t = _triton.tanh(v)
    slope = 4.0 * e / ((1.0 + e) * (1.0 + e))
    return t, slope, t * t + slope * s


@triton.jit
def _root(alpha, s):
    """The v with v + (s - 1) tanh v = alpha: see csrc/ops/planar/planar.h."""
    size = tl.abs(alpha)
    ratio = size / s
    shifted = size - (s - 1.0)
    convex = s < 1.0
    cube = _triton.exp(tl.log(tl.maximum(4.2 * size, 1e-30)) / 3.0)
    cubic = tl.where(size < 5.0 / 21.0, cube, size + 1.0)
    high = tl.where(convex, tl.minimum(tl.minimum(shifted, ratio), cubic), size)
    low = tl.minimum(tl.where(convex, size, tl.maximum(shifted, ratio)), high)
    bounded = tl.minimum(ratio, 0.999)
    straight = tl.where(ratio < 0.999, 0.5 * tl.log((1.0 + bounded) / (1.0 - bounded)), low)
    v = tl.maximum(tl.minimum(tl.where(convex, high, straight), high), low)
    for _ in range(NEWTON):
        t, slope, det = _bend(v, s)
        f = (v - t) + s * t - size
        low, high = tl.where(f < 0, v, low), tl.where(f > 0, v, high)
        v = tl.minimum(tl.maximum(v - f / det, low), high)
    return tl.where(alpha < 0, -v, v)


@triton.jit
def _dot(p, q, rows, pb, pd, qb, qd, batch, size, zero, CHUNKS: tl.constexpr, TILE: tl.constexpr):
    """Row by row, [ROWS, 1]."""
    total = zero
    for i in range(CHUNKS):
        d = i * TILE + tl.arange(0, TILE)[None, :]
        keep = (rows < batch) & (d < size)
        left = tl.load(p + rows * pb + d * pd, keep, other=0).to(zero.dtype)
        right = tl.load(q + rows * qb + d * qd, keep, other=0).to(zero.dtype)
        total += tl.sum(left * right, axis=1)[:, None]
    return total


# one program: ROWS samples, in CHUNKS pieces of TILE elements
@triton.jit
def _forward(x, u, w, b, y, log_det, batch, size, xb, xd, ub, ud, wb, wd, bb,
             INVERSE: tl.constexpr, ACC: tl.constexpr, ROWS: tl.constexpr, CHUNKS: tl.constexpr,
             TILE: tl.constexpr):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]  # [ROWS, 1]
    zero = tl.zeros([ROWS, 1], ACC)
    v = _dot(x, w, rows, xb, xd, wb, wd, batch, size, zero, CHUNKS, TILE)
    a = _dot(u, w, rows, ub, ud, wb, wd, batch, size, zero, CHUNKS, TILE)
    n = _dot(w, w, rows, wb, wd, wb, wd, batch, size, zero, CHUNKS, TILE)
    v += tl.load(b + rows * bb, rows < batch, other=0).to(ACC)
    k, s, s_a, s_n, k_a, k_n = _shape(a, n)
    if INVERSE:
        v = _root(v, s)
    t, slope, det = _bend(v, s)
    tl.store(log_det + rows, -tl.log(det) if INVERSE else tl.log(det), rows < batch)
    t = -t if INVERSE else t
    for i in range(CHUNKS):
        d = i * TILE + tl.arange(0, TILE)[None, :]  # [1, TILE]
        keep = (rows < batch) & (d < size)
        value = tl.load(x + rows * xb + d * xd, keep, other=0).to(ACC)
        u_hat = tl.load(u + rows * ub + d * ud, keep, other=0).to(ACC)
        u_hat += k * tl.load(w + rows * wb + d * wd, keep, other=0).to(ACC)
        tl.store(y + rows * size + d, (value + t * u_hat).to(y.dtype.element_ty), keep)


# one program: as forward; sums over samples go to `partial`, [programs, 2 * size + 3], where parameters are shared
@triton.jit
def _backward(grad_y, grad_log_det, x, u, w, b, grad_x, grad_u, grad_w, grad_b, partial, batch, size,
              gb, gd, xb, xd, ub, ud, wb, wd, bb,
              INVERSE: tl.constexpr, SHARED: tl.constexpr, ACC: tl.constexpr, ROWS: tl.constexpr,
              CHUNKS: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]  # [ROWS, 1]
    zero = tl.zeros([ROWS, 1], ACC)
    v = _dot(x, w, rows, xb, xd, wb, wd, batch, size, zero, CHUNKS, TILE)
    a = _dot(u, w, rows, ub, ud, wb, wd, batch, size, zero, CHUNKS, TILE)
    n = _dot(w, w, rows, wb, wd, wb, wd, batch, size, zero, CHUNKS, TILE)
    gu = _dot(grad_y, u, rows, gb, gd, ub, ud, batch, size, zero, CHUNKS, TILE)
    gw = _dot(grad_y, w, rows, gb, gd, wb, wd, batch, size, zero, CHUNKS, TILE)
    v += tl.load(b + rows * bb, rows < batch, other=0).to(ACC)
    g_log_det = tl.load(grad_log_det + rows, rows < batch, other=0).to(ACC)
    k, s, s_a, s_n, k_a, k_n = _shape(a, n)
    if INVERSE:
        v = _root(v, s)
    t, slope, det = _bend(v, s)
    by_v = slope * (gu + k * gw) + g_log_det * (2.0 * t * slope * (1.0 - s) / det)
    by_s = g_log_det * slope / det
    if INVERSE:
        c, g_alpha, g_s = -t, -by_v / det, by_v / det * t - by_s
    else:
        c, g_alpha, g_s = t, by_v, by_s
    inside = rows < batch
    g_k = c * gw
    g_a = tl.where(inside, g_k * k_a + g_s * s_a, 0.0)
    g_n = tl.where(inside, 2.0 * (g_k * k_n + g_s * s_n), 0.0)
    g_alpha = tl.where(inside, g_alpha, 0.0)
    sums = partial + tl.program_id(0).to(tl.int64) * (2 * size + 3)
    if SHARED:
        tl.store(sums + 2 * size, tl.sum(tl.sum(g_a, axis=1), axis=0))
        tl.store(sums + 2 * size + 1, tl.sum(tl.sum(g_n, axis=1), axis=0))
        tl.store(sums + 2 * size + 2, tl.sum(tl.sum(g_alpha, axis=1), axis=0))
    else:
        tl.store(grad_b + rows, g_alpha.to(grad_b.dtype.element_ty), inside)
    for i in range(CHUNKS):
        d = i * TILE + tl.arange(0, TILE)[None, :]  # [1, TILE]
        keep = inside & (d < size)
        g = tl.load(grad_y + rows * gb + d * gd, keep, other=0).to(ACC)
        value = tl.load(x + rows * xb + d * xd, keep, other=0).to(ACC)
        w_d = tl.load(w + rows * wb + d * wd, keep, other=0).to(ACC)
        at = rows * size + d
        tl.store(grad_x + at, (g + g_alpha * w_d).to(grad_x.dtype.element_ty), keep)
        if SHARED:
            column = tl.arange(0, TILE) + i * TILE
            tl.store(sums + column, tl.sum(c * g, axis=0), column < size)
            tl.store(sums + size + column, tl.sum(g_alpha * value, axis=0), column < size)
        else:
            u_d = tl.load(u + rows * ub + d * ud, keep, other=0).to(ACC)
            tl.store(grad_u + at, (c * g + g_a * w_d).to(grad_u.dtype.element_ty), keep)
            by_w = k * c * g + g_alpha * value + g_a * u_d + g_n * w_d
            tl.store(grad_w + at, by_w.to(grad_w.dtype.element_ty), keep)


_ACC = {torch.float32: tl.float32, torch.float64: tl.float64}


def _plan(x: Tensor) -> dict[str, Any]:
    size = x.shape[1]
    tile = min(TILE, triton.next_power_of_2(size))
    rows = min(ROWS_MAX, TILE // tile)
    return {"ACC": _ACC[_triton.wide(x)], "ROWS": rows, "CHUNKS": triton.cdiv(size, tile), "TILE": tile}


def _row(tensor: Tensor) -> tuple[int, int]:
    """Strides of [B, D], with 0 for the samples of [D]."""
    return (0, tensor.stride(0)) if tensor.dim() == 1 else (tensor.stride(0), tensor.stride(1))


def _step(b: Tensor) -> int:
    return b.stride(0) if b.dim() else 0


def planar(x: Tensor, u: Tensor, w: Tensor, b: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    log_det = x.new_zeros(x.shape[0], dtype=_triton.wide(x))
    if x.numel():
        plan = _plan(x)
        _forward[(triton.cdiv(x.shape[0], plan["ROWS"]),)](
            x, u, w, b, y, log_det, *x.shape, *_row(x), *_row(u), *_row(w), _step(b), INVERSE=inverse, **plan
        )
    return y, log_det


def planar_backward(
    grad_y: Tensor, grad_log_det: Tensor, x: Tensor, u: Tensor, w: Tensor, b: Tensor, inverse: bool
) -> tuple[Tensor, ...]:
    grads = [torch.zeros_like(t, memory_format=torch.contiguous_format) for t in (x, u, w, b)]
    if not x.numel():
        return tuple(grads)
    plan, shared = _plan(x), u.dim() == 1
    programs, size = triton.cdiv(x.shape[0], plan["ROWS"]), x.shape[1]
    partial = x.new_empty(programs if shared else 1, 2 * size + 3, dtype=_triton.wide(x))
    _backward[(programs,)](
        grad_y, grad_log_det.contiguous(), x, u, w, b, *grads, partial, *x.shape, *_row(grad_y), *_row(x), *_row(u),
        *_row(w), _step(b), INVERSE=inverse, SHARED=shared, **plan,
    )  # fmt: skip
    if not shared:
        return tuple(grads)
    by_u, by_w, rest = partial.sum(0).split([size, size, 3])
    wide_u, wide_w = u.to(by_u.dtype), w.to(by_u.dtype)
    square = (wide_w * wide_w).sum().clamp(min=LEAST_SQUARE)
    k = (torch.nn.functional.softplus(-(wide_u * wide_w).sum()) - 1) / square
    grad_u = by_u + rest[0] * wide_w
    grad_w = k * by_u + by_w + rest[0] * wide_u + rest[1] * wide_w
    return grads[0], grad_u.to(u.dtype), grad_w.to(w.dtype), rest[2].to(b.dtype)


def _ahead_of_time(kernel: triton.JITFunction, shared: bool) -> AheadOfTime:
    constants = {"INVERSE": True, "SHARED": shared, "ACC": tl.float32, "ROWS": 16, "CHUNKS": 1, "TILE": 64}
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    pointers = dict.fromkeys(("x", "u", "w", "b", "y", "grad_x", "grad_u", "grad_w", "grad_b", "grad_y"), "*bf16")
    pointers |= dict.fromkeys(("log_det", "grad_log_det", "partial"), "*fp32")
    signature = {name: pointers.get(name, "i64") for name in kernel.arg_names if name not in constants}
    return AheadOfTime(kernel, signature, constants)


AHEAD_OF_TIME = [_ahead_of_time(_forward, True), _ahead_of_time(_backward, True), _ahead_of_time(_backward, False)]
