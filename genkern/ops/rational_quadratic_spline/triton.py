"""Rational-quadratic splines on GPUs: one pass over x and the parameters, partial log-determinants for each tile."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import _triton
from .._triton import AheadOfTime
from .reference import SLOPES_LESS_BINS

WORK = 1024  # bins times elements of a program
TAILS = {"linear": 0, "circular": 1, "none": 2}


@triton.jit
def _sqrt(x):
    if x.dtype == tl.float64:
        return tl.sqrt(x)
    else:
        return tl.sqrt_rn(x)


@triton.jit
def _shares(raw, step, keep, m: tl.constexpr, k, K: tl.constexpr, ACC: tl.constexpr):
    """e = exp(raw - max) of all bins, [KP, BLOCK]; its sum, and the scale from e to shares beyond m."""
    value = tl.load(raw + k * step, keep & (k < K), other=0).to(ACC)
    value = tl.where(k < K, value, -float("inf"))
    e = _triton.exp(value - tl.max(value, axis=0)[None, :])
    wide = e.to(tl.float64)
    total = tl.sum(wide, axis=0)
    return e, wide, total, (1.0 - K * m) / total


@triton.jit
def _bin_of(position, wide, scale, m: tl.constexpr, k, K: tl.constexpr):
    right = (k + 1).to(tl.float64) * m + scale[None, :] * tl.cumsum(wide, axis=0)
    return tl.sum(((position[None, :] >= right) & (k < K - 1)).to(tl.int32), axis=0)


@triton.jit
def _side(wide, scale, m: tl.constexpr, k, at):
    """Sum of e left of a bin, e of the bin, and its left knot and size as shares."""
    before = tl.sum(tl.where(k < at[None, :], wide, 0.0), axis=0)
    own = tl.sum(tl.where(k == at[None, :], wide, 0.0), axis=0)
    return before, own, at.to(tl.float64) * m + scale * before, m + scale * own


@triton.jit
def _slope(raw, step, index, free, keep, offset: tl.constexpr, min_slope: tl.constexpr, ACC: tl.constexpr):
    """m + softplus(z) and its derivative; 1 and 0 where the slope is not free."""
    z = tl.load(raw + index * step, keep & free, other=0).to(ACC) + offset
    e = _triton.exp(-tl.abs(z))
    small = e / (1.0 + e)
    value = min_slope + tl.maximum(z, 0.0) + _triton.log1p_nonnegative(e)
    return tl.where(free, value, 1.0), tl.where(free, tl.where(z > 0, 1.0 - small, small), 0.0)


@triton.jit
def _factors(total, scale, before, own, left, size, ACC: tl.constexpr):
    """Gradient of a raw share over e: left of the bin, at it, and right of it."""
    p, below, above = (own / total).to(ACC), (before / total).to(ACC), ((total - before) / total).to(ACC)
    scale = scale.to(ACC)
    return (scale * (left * above - size * p), scale * (size * (1.0 - p) - left * below),
            -scale * (left * below + size * p))  # fmt: skip


# Numbers are compile-time constants, since arguments would be rounded to float32.
# one program: BLOCK = ROWS samples x TILE of their splines, and as many of the elements that pass unchanged
@triton.jit
def _spline(grad_y, grad_log_det, x, params, mask, y, log_det, grad_params, batch, sample, active, first, passive_from,
            length, bound: tl.constexpr, m: tl.constexpr, min_slope: tl.constexpr, offset: tl.constexpr,
            K: tl.constexpr, KP: tl.constexpr, TAILS: tl.constexpr, COUNT: tl.constexpr, SP: tl.constexpr,
            BACKWARD: tl.constexpr, INVERSE: tl.constexpr, MASKED: tl.constexpr, ACC: tl.constexpr,
            ROWS: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    lane = tl.arange(0, ROWS * TILE)
    b = tl.program_id(0).to(tl.int64) * ROWS + lane // TILE
    e = tl.program_id(1).to(tl.int64) * TILE + lane % TILE
    step = length

    passes = (b < batch) & (e < sample - active)
    at = b * sample + passive_from + e
    source = grad_y if BACKWARD else x
    tl.store(y + at, tl.load(source + at, passes), passes)

    keep = (b < batch) & (e < active)
    at = b * sample + first + e
    given = tl.load(x + at, keep, other=0).to(ACC)
    inside = keep & (given >= -bound) & (given <= bound)
    if MASKED:
        inside = inside & (tl.load(mask + e, keep, other=1) == 0)
    position = (tl.where(inside, given, 0.0).to(tl.float64) + bound) / (2 * bound)

    raw = params + b * active * COUNT + (e // length) * length * COUNT + e % length
    k = tl.arange(0, KP)[:, None]
    ex, wide_x, sum_x, scale_x = _shares(raw[None, :], step, keep[None, :], m, k, K, ACC)
    ey, wide_y, sum_y, scale_y = _shares(raw[None, :] + K * step, step, keep[None, :], m, k, K, ACC)
    n = _bin_of(position, wide_y, scale_y, m, k, K) if INVERSE else _bin_of(position, wide_x, scale_x, m, k, K)
    before_x, own_x, x_left, w64 = _side(wide_x, scale_x, m, k, n)
    before_y, own_y, y_left, h64 = _side(wide_y, scale_y, m, k, n)
    last = n == K - 1
    x_right, y_right = tl.where(last, 1.0, x_left + w64), tl.where(last, 1.0, y_left + h64)
    w, h = w64.to(ACC), h64.to(ACC)

    left_at, right_at = n, n + 1
    left_free, right_free = n >= 0, n >= 0
    if TAILS == 0:
        left_at, right_at, left_free, right_free = n - 1, n, n > 0, n < K - 1
    if TAILS == 1:
        right_at = (n + 1) % K
    slopes = raw + 2 * K * step
    d_left, dd_left = _slope(slopes, step, left_at, left_free, keep, offset, min_slope, ACC)
    d_right, dd_right = _slope(slopes, step, right_at, right_free, keep, offset, min_slope, ACC)
    ratio = w / h
    a, c = d_left * ratio, d_right * ratio

    if INVERSE:
        v = (tl.maximum(position - y_left, 0.0) / h64).to(ACC)
        rest = (tl.maximum(y_right - position, 0.0) / h64).to(ACC)
        middle = a * rest - c * v
        root = _sqrt(middle * middle + 4.0 * v * rest)
        up = tl.where(middle > 0, 2.0 * v, root - middle)
        down = tl.where(middle > 0, root + middle, 2.0 * rest)
        t, u = up / (up + down), down / (up + down)
    else:
        t = (tl.maximum(position - x_left, 0.0) / w64).to(ACC)
        u = (tl.maximum(x_right - position, 0.0) / w64).to(ACC)
    tu = t * u
    D = t * t + u * u + (a + c) * tu
    N = c * t * t + 2.0 * tu + a * u * u
    v, rest = (t * t + a * tu) / D, (u * u + c * tu) / D

    if not BACKWARD:
        share, other = (t, u) if INVERSE else (v, rest)
        size = w64 if INVERSE else h64
        low, high = (x_left, x_right) if INVERSE else (y_left, y_right)
        moved = tl.where(share < other, low + size * share.to(tl.float64), high - size * other.to(tl.float64))
        result = tl.where(inside, (bound * (2.0 * moved - 1.0)).to(ACC), given)
        tl.store(y + at, result.to(y.dtype.element_ty), keep)
        log_slope = tl.where(inside, tl.log(N / (ratio * D * D)), 0.0)
        total = tl.sum(tl.reshape(log_slope, (ROWS, TILE)), axis=1)
        row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
        total = -total if INVERSE else total
        tl.store(log_det + row * tl.num_programs(1) + tl.program_id(1), total, row < batch)
    else:
        g = tl.load(grad_y + at, keep, other=0).to(ACC)
        g_log = tl.load(grad_log_det + b, keep, other=0).to(ACC)
        g_log = tl.where(inside, -g_log if INVERSE else g_log, 0.0)
        g_out = tl.where(inside, g, 0.0)
        y_t = h * N / (D * D)
        l_t = 2.0 * ((c * t + (u - t) - a * u) / N - (u - t) * (a + c - 2.0) / D)
        if INVERSE:
            g_t = -2.0 * bound * g_out * w
            g_y = (g_t - g_log * l_t) / y_t
            g_x = -g_y / (2.0 * bound)
        else:
            g_y = 2.0 * bound * g_out
            g_t = g_y * y_t + g_log * l_t
            g_x = g_t / (2.0 * bound * w)
        tl.store(y + at, tl.where(inside, g_x, g).to(y.dtype.element_ty), keep)

        g_a = g_y * h * tu * rest / D + g_log * (u * u / N - 2.0 * tu / D)
        g_c = -g_y * h * tu * v / D + g_log * (t * t / N - 2.0 * tu / D)
        from_slopes = g_a * a + g_c * c - g_log
        to = grad_params.dtype.element_ty
        out = grad_params + b * active * COUNT + (e // length) * length * COUNT + e % length
        out, store = out[None, :], keep[None, :] & (k < K)
        less, own, more = _factors(sum_x, scale_x, before_x, own_x, -g_t / w, (from_slopes - g_t * t) / w, ACC)
        grad = ex * tl.where(k < n[None, :], less[None, :], tl.where(k == n[None, :], own[None, :], more[None, :]))
        tl.store(out + k * step, grad.to(to), store)
        less, own, more = _factors(sum_y, scale_y, before_y, own_y, g_y, g_y * v - from_slopes / h, ACC)
        grad = ey * tl.where(k < n[None, :], less[None, :], tl.where(k == n[None, :], own[None, :], more[None, :]))
        tl.store(out + (K + k) * step, grad.to(to), store)
        if COUNT > 2 * K:
            j = tl.arange(0, SP)[:, None]
            grad = tl.where(j == left_at[None, :], (g_a * ratio * dd_left)[None, :], 0.0)
            grad += tl.where(j == right_at[None, :], (g_c * ratio * dd_right)[None, :], 0.0)
            tl.store(out + (2 * K + j) * step, grad.to(to), keep[None, :] & (j < COUNT - 2 * K))


_ACC = {torch.float32: tl.float32, torch.float64: tl.float64}


def _plan(
    x: Tensor, params: Tensor, bins: int, tails: str, layout: str, flip: bool
) -> tuple[tuple[int, ...], dict[str, Any], tuple[int, int]]:
    """Sizes of a call, the constants for it, and its grid."""
    slopes = bins + SLOPES_LESS_BINS[tails]
    count = 2 * bins + slopes
    channels, sites = x.shape[1], x.shape[2:].numel()
    active = params.shape[1] // count * sites
    sample = channels * sites
    first, passive_from = (0, active) if flip else (sample - active, 0)
    padded = triton.next_power_of_2(bins)
    block = max(32, WORK // padded)
    tile = min(block, triton.next_power_of_2(max(active, sample - active)))
    sizes = (x.shape[0], sample, active, first, passive_from, sites if layout == "parameters_last" else active)
    constants = {"K": bins, "KP": padded, "TAILS": TAILS[tails], "COUNT": count,
                 "SP": triton.next_power_of_2(max(slopes, 1)), "ROWS": block // tile, "TILE": tile}  # fmt: skip
    grid = (triton.cdiv(x.shape[0], block // tile), triton.cdiv(max(active, sample - active), tile))
    return sizes, constants, grid


def rational_quadratic_spline(
    x: Tensor, params: Tensor, mask: Tensor | None, bins: int, bound: float, tails: str, layout: str, flip: bool,
    min_bin: float, min_slope: float, offset: float, inverse: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    x, params = x.contiguous(), params.contiguous()
    y = torch.empty_like(x)
    if not x.numel():
        return y, x.new_zeros(x.shape[0], dtype=_triton.wide(x))
    sizes, constants, grid = _plan(x, params, bins, tails, layout, flip)
    partial = x.new_empty(x.shape[0], grid[1], dtype=_triton.wide(x))
    _spline[grid](
        x, partial, x, params, x if mask is None else mask.contiguous(), y, partial, params, *sizes,
        bound=bound, m=min_bin, min_slope=min_slope, offset=offset, BACKWARD=False, INVERSE=inverse,
        MASKED=mask is not None, ACC=_ACC[partial.dtype], **constants,
    )  # fmt: skip
    return y, partial[:, 0] if grid[1] == 1 else partial.sum(1)


def rational_quadratic_spline_backward(
    grad_y: Tensor, grad_log_det: Tensor, x: Tensor, params: Tensor, mask: Tensor | None, bins: int, bound: float,
    tails: str, layout: str, flip: bool, min_bin: float, min_slope: float, offset: float, inverse: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    x, params, grad_y = x.contiguous(), params.contiguous(), grad_y.contiguous()
    grad_x, grad_params = torch.empty_like(x), torch.empty_like(params)
    if not x.numel():
        return grad_x, grad_params
    sizes, constants, grid = _plan(x, params, bins, tails, layout, flip)
    _spline[grid](
        grad_y, grad_log_det.contiguous(), x, params, x if mask is None else mask.contiguous(), grad_x, grad_log_det,
        grad_params, *sizes, bound=bound, m=min_bin, min_slope=min_slope, offset=offset, BACKWARD=True, INVERSE=inverse,
        MASKED=mask is not None, ACC=_ACC[_triton.wide(x)], **constants,
    )  # fmt: skip
    return grad_x, grad_params


def _ahead_of_time(backward: bool, inverse: bool) -> AheadOfTime:
    constants = {"bound": 3.0, "m": 1e-3, "min_slope": 1e-3, "offset": 0.54,
                 "K": 8, "KP": 8, "TAILS": 0, "COUNT": 23, "SP": 8, "BACKWARD": backward, "INVERSE": inverse,
                 "MASKED": False, "ACC": tl.float32, "ROWS": 1, "TILE": 128}  # fmt: skip
    pointers = dict.fromkeys(("grad_y", "x", "params", "y", "grad_params"), "*bf16")
    pointers |= {"mask": "*u8", "log_det": "*fp32", "grad_log_det": "*fp32"}
    signature = {name: pointers.get(name, "i64") for name in _spline.arg_names if name not in constants}
    return AheadOfTime(_spline, signature, constants)


AHEAD_OF_TIME = [_ahead_of_time(backward, inverse) for backward in (False, True) for inverse in (False, True)]
