"""Affine coupling on GPUs: one pass over x and the parameters, with partial log-determinants for each tile."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import _triton
from .._triton import AheadOfTime

SCALES = {"exp": 0, "tanh": 1, "sigmoid": 2, "none": 3}
TILE = 1024


@triton.jit
def _scaling(s, bound, SCALE: tl.constexpr):
    """sigma, 1 / sigma, dl/ds and l of a raw scale."""
    if SCALE == 0:
        return _triton.exp(s), _triton.exp(-s), s * 0 + 1, s
    elif SCALE == 1:
        t = _triton.tanh(s / bound)
        return _triton.exp(bound * t), _triton.exp(-bound * t), 1 - t * t, bound * t
    elif SCALE == 2:
        a = s + 2.0
        e = _triton.exp(-tl.abs(a))
        d = 1.0 + e
        big = 1.0 / d
        small = e * big
        positive = a >= 0
        log_scale = tl.minimum(a, 0.0) - _triton.log1p_nonnegative(e)
        return tl.where(positive, big, small), tl.where(positive, d, d / e), tl.where(positive, small, big), log_scale
    else:
        return s * 0 + 1, s * 0 + 1, s * 0, s * 0


@triton.jit
def _site(e, channels, sites, CHANNELS_INNER: tl.constexpr):
    """Element number to (channel, site), in the order in which memory is contiguous."""
    if CHANNELS_INNER:
        return e % channels, e // channels
    else:
        return e // sites, e % sites


@triton.jit
def _parameters(params, mask, b, c, s, keep, sites, active_from, pb, pc, ps, STEP: tl.constexpr, SCALE_AT, SHIFT_AT,
                ACC: tl.constexpr, SCALE: tl.constexpr, MASKED: tl.constexpr):  # fmt: skip
    shift = tl.load(params + b * pb + (c * STEP + SHIFT_AT) * pc + s * ps, keep, other=0).to(ACC)
    raw = shift * 0
    if SCALE != 3:
        raw = tl.load(params + b * pb + (c * STEP + SCALE_AT) * pc + s * ps, keep, other=0).to(ACC)
    passes = raw != raw
    if MASKED:
        passes = tl.load(mask + (c + active_from) * sites + s, keep, other=1) != 0
    return raw, shift, passes


# one program: ROWS samples x TILE elements of the active half, and as many of the passive half
@triton.jit
def _forward(x, params, mask, y, log_det, batch, channels, active, sites, active_from, passive_from,
             xb, xc, xs, yb, yc, ys, pb, pc, ps, scale_at, shift_at, bound,
             SCALE: tl.constexpr, INVERSE: tl.constexpr, MASKED: tl.constexpr, STEP: tl.constexpr,
             CHANNELS_INNER: tl.constexpr, ACC: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    b = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]  # [ROWS, 1]
    e = tl.program_id(1).to(tl.int64) * TILE + tl.arange(0, TILE)[None, :]  # [1, TILE]

    c, s = _site(e, tl.maximum(channels - active, 1), sites, CHANNELS_INNER)
    keep = (b < batch) & (e < (channels - active) * sites)
    c += passive_from
    tl.store(y + b * yb + c * yc + s * ys, tl.load(x + b * xb + c * xc + s * xs, keep), keep)

    c, s = _site(e, active, sites, CHANNELS_INNER)
    keep = (b < batch) & (e < active * sites)
    raw, shift, passes = _parameters(params, mask, b, c, s, keep, sites, active_from, pb, pc, ps, STEP, scale_at,
                                     shift_at, ACC, SCALE, MASKED)  # fmt: skip
    c += active_from
    value = tl.load(x + b * xb + c * xc + s * xs, keep, other=0).to(ACC)
    sigma, reciprocal, _, log_scale = _scaling(raw, bound, SCALE)
    result = (value - shift) * reciprocal if INVERSE else value * sigma + shift
    result = tl.where(passes, value, result)
    log_scale = tl.where(keep & (passes == 0), log_scale, 0.0)
    tl.store(y + b * yb + c * yc + s * ys, result.to(y.dtype.element_ty), keep)
    total = tl.sum(log_scale, axis=1)[:, None]
    tl.store(log_det + b * tl.num_programs(1) + tl.program_id(1), -total if INVERSE else total, b < batch)


@triton.jit
def _backward(grad_y, grad_log_det, x, params, mask, grad_x, grad_params, batch, channels, active, sites, active_from,
              passive_from, gb, gc, gs, xb, xc, xs, yb, yc, ys, pb, pc, ps, qb, qc, qs, scale_at, shift_at, bound,
              SCALE: tl.constexpr, INVERSE: tl.constexpr, MASKED: tl.constexpr, STEP: tl.constexpr,
              CHANNELS_INNER: tl.constexpr, ACC: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    b = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]  # [ROWS, 1]
    e = tl.program_id(1).to(tl.int64) * TILE + tl.arange(0, TILE)[None, :]  # [1, TILE]

    c, s = _site(e, tl.maximum(channels - active, 1), sites, CHANNELS_INNER)
    keep = (b < batch) & (e < (channels - active) * sites)
    c += passive_from
    tl.store(grad_x + b * yb + c * yc + s * ys, tl.load(grad_y + b * gb + c * gc + s * gs, keep), keep)

    c, s = _site(e, active, sites, CHANNELS_INNER)
    keep = (b < batch) & (e < active * sites)
    raw, shift, passes = _parameters(params, mask, b, c, s, keep, sites, active_from, pb, pc, ps, STEP, scale_at,
                                     shift_at, ACC, SCALE, MASKED)  # fmt: skip
    at = c + active_from
    value = tl.load(x + b * xb + at * xc + s * xs, keep, other=0).to(ACC)
    g = tl.load(grad_y + b * gb + at * gc + s * gs, keep, other=0).to(ACC)
    g_log_det = tl.load(grad_log_det + b, b < batch, other=0).to(ACC)
    sigma, reciprocal, slope, _ = _scaling(raw, bound, SCALE)
    if INVERSE:
        gx = g * reciprocal
        g_shift = -gx
        g_raw = -(gx * (value - shift) + g_log_det) * slope
    else:
        gx = g * sigma
        g_shift = g
        g_raw = (gx * value + g_log_det) * slope
    tl.store(grad_x + b * yb + at * yc + s * ys, tl.where(passes, g, gx).to(grad_x.dtype.element_ty), keep)
    to = grad_params.dtype.element_ty
    tl.store(grad_params + b * qb + (c * STEP + shift_at) * qc + s * qs, tl.where(passes, 0.0, g_shift).to(to), keep)
    if SCALE != 3:
        tl.store(grad_params + b * qb + (c * STEP + scale_at) * qc + s * qs, tl.where(passes, 0.0, g_raw).to(to), keep)


def _plan(x: Tensor, params: Tensor, scale: str, layout: str, flip: bool) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Sizes and channel offsets of a call, and the tile for it."""
    channels = x.shape[1]
    active = params.shape[1] if scale == "none" else params.shape[1] // 2
    sites = x.shape[2:].numel()
    offsets = {"scale_shift": (0, active), "shift_scale": (active, 0), "interleaved": (1, 0)}
    scale_at, shift_at = (0, 0) if scale == "none" else offsets[layout]
    tile = min(TILE, triton.next_power_of_2(max(active, channels - active) * sites))
    sizes = (channels, active, sites, 0 if flip else channels - active, active if flip else 0)
    constants = {
        "SCALE": SCALES[scale],
        "STEP": 2 if layout == "interleaved" and scale != "none" else 1,
        "CHANNELS_INNER": int(_triton.strides(x)[2] != 1),
        "ROWS": TILE // tile,
        "TILE": tile,
    }
    return (*sizes, scale_at, shift_at), constants


def _grid(x: Tensor, sizes: tuple[int, ...], constants: dict[str, int]) -> tuple[int, int]:
    channels, active, sites = sizes[:3]
    return triton.cdiv(x.shape[0], constants["ROWS"]), triton.cdiv(
        max(active, channels - active) * sites, constants["TILE"]
    )


_ACC = {torch.float32: tl.float32, torch.float64: tl.float64}


def affine_coupling(
    x: Tensor, params: Tensor, mask: Tensor | None, scale: str, bound: float, layout: str, flip: bool, inverse: bool
) -> tuple[Tensor, Tensor]:
    x, params = _triton.collapsible(x), _triton.collapsible(params)
    y = torch.empty_like(x)
    if not x.numel():
        return y, x.new_zeros(x.shape[0], dtype=_triton.wide(x))
    (*sizes, scale_at, shift_at), constants = _plan(x, params, scale, layout, flip)
    grid = _grid(x, tuple(sizes), constants)
    partial = x.new_empty(x.shape[0], grid[1], dtype=_triton.wide(x))
    _forward[grid](
        x, params, x if mask is None else mask.contiguous(), y, partial, x.shape[0], *sizes,
        *_triton.strides(x), *_triton.strides(y), *_triton.strides(params), scale_at, shift_at, bound,
        INVERSE=inverse, MASKED=mask is not None, ACC=_ACC[partial.dtype], **constants,
    )  # fmt: skip
    return y, partial[:, 0] if grid[1] == 1 else partial.sum(1)


def affine_coupling_backward(
    grad_y: Tensor,
    grad_log_det: Tensor,
    x: Tensor,
    params: Tensor,
    mask: Tensor | None,
    scale: str,
    bound: float,
    layout: str,
    flip: bool,
    inverse: bool,
) -> tuple[Tensor, Tensor]:
    x, params, grad_y = (_triton.collapsible(tensor) for tensor in (x, params, grad_y))
    grad_x, grad_params = torch.empty_like(x), torch.empty_like(params)
    if not x.numel():
        return grad_x, grad_params
    (*sizes, scale_at, shift_at), constants = _plan(x, params, scale, layout, flip)
    _backward[_grid(x, tuple(sizes), constants)](
        grad_y, grad_log_det.contiguous(), x, params, x if mask is None else mask.contiguous(), grad_x, grad_params,
        x.shape[0], *sizes, *_triton.strides(grad_y), *_triton.strides(x), *_triton.strides(grad_x),
        *_triton.strides(params), *_triton.strides(grad_params), scale_at, shift_at, bound,
        INVERSE=inverse, MASKED=mask is not None, ACC=_ACC[_triton.wide(x)], **constants,
    )  # fmt: skip
    return grad_x, grad_params


def _ahead_of_time(kernel: triton.JITFunction, pointers: dict[str, str]) -> AheadOfTime:
    constants = {"SCALE": 2, "INVERSE": False, "MASKED": False, "STEP": 1, "CHANNELS_INNER": 0, "ACC": tl.float32,
                 "ROWS": 1, "TILE": TILE}  # fmt: skip
    signature = {name: pointers.get(name, "i64") for name in kernel.arg_names if name not in constants}
    return AheadOfTime(kernel, signature | {"bound": "fp32"}, constants)


_BF16 = dict.fromkeys(("x", "params", "y", "grad_y", "grad_x", "grad_params"), "*bf16")
AHEAD_OF_TIME = [
    _ahead_of_time(_forward, _BF16 | {"mask": "*u8", "log_det": "*fp32"}),
    _ahead_of_time(_backward, _BF16 | {"mask": "*u8", "grad_log_det": "*fp32"}),
]
