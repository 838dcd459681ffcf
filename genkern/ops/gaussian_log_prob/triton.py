"""Gaussian log-densities on GPUs: partial sums for each tile of a sample; gradients in one pass."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import _triton
from .._triton import AheadOfTime

TILE = 1024
HALF_LN_2PI = tl.constexpr(0.9189385332046727)


@triton.jit
def _inverse_std(s):
    """e^-s, finite, so that it gives no NaN where x = mean."""
    if s.dtype == tl.float64:
        return _triton.exp(-tl.maximum(s, -709.0))
    else:
        return _triton.exp(-tl.maximum(s, -88.0))


@triton.jit
def _load(p, b, c, s, pb, pc, ps, keep, ACC: tl.constexpr):
    return tl.load(p + b * pb + c * pc + s * ps, keep, other=0).to(ACC)


@triton.jit
def _site(e, channels, sites, CHANNELS_INNER: tl.constexpr):
    """Element number to (channel, site), in the order in which memory is contiguous."""
    if CHANNELS_INNER:
        return e % channels, e // channels
    else:
        return e // sites, e % sites


# one program: ROWS samples x TILE elements
@triton.jit
def _forward(x, mean, log_std, out, batch, channels, sites, xb, xc, xs, mb, mc, ms, sb, sc, ss,
             STANDARD: tl.constexpr, CHANNELS_INNER: tl.constexpr, ACC: tl.constexpr,
             ROWS: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    b = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]  # [ROWS, 1]
    e = tl.program_id(1).to(tl.int64) * TILE + tl.arange(0, TILE)[None, :]  # [1, TILE]
    keep = (b < batch) & (e < channels * sites)
    c, s = _site(e, channels, sites, CHANNELS_INNER)
    value = _load(x, b, c, s, xb, xc, xs, keep, ACC)
    if STANDARD:
        term = -0.5 * value * value - HALF_LN_2PI
    else:
        log_scale = _load(log_std, b, c, s, sb, sc, ss, keep, ACC)
        r = (value - _load(mean, b, c, s, mb, mc, ms, keep, ACC)) * _inverse_std(log_scale)
        term = -0.5 * r * r - log_scale - HALF_LN_2PI
    total = tl.sum(tl.where(keep, term, 0.0), axis=1)[:, None]
    tl.store(out + b * tl.num_programs(1) + tl.program_id(1), total, b < batch)


@triton.jit
def _backward(grad, x, mean, log_std, grad_x, grad_mean, grad_log_std, batch, channels, sites, xb, xc, xs, mb, mc, ms,
              sb, sc, ss, gxb, gxc, gxs, gmb, gmc, gms, gsb, gsc, gss,
              STANDARD: tl.constexpr, CHANNELS_INNER: tl.constexpr, ACC: tl.constexpr,
              ROWS: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    b = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]  # [ROWS, 1]
    e = tl.program_id(1).to(tl.int64) * TILE + tl.arange(0, TILE)[None, :]  # [1, TILE]
    keep = (b < batch) & (e < channels * sites)
    c, s = _site(e, channels, sites, CHANNELS_INNER)
    value = _load(x, b, c, s, xb, xc, xs, keep, ACC)
    g = tl.load(grad + b, b < batch, other=0).to(ACC)
    to = grad_x.dtype.element_ty
    if STANDARD:
        tl.store(grad_x + b * gxb + c * gxc + s * gxs, (-g * value).to(to), keep)
    else:
        # g comes first in every product, so that a gradient of zero stays zero beside overflow
        d = value - _load(mean, b, c, s, mb, mc, ms, keep, ACC)
        inverse_std = _inverse_std(_load(log_std, b, c, s, sb, sc, ss, keep, ACC))
        scaled = g * d * inverse_std
        tl.store(grad_x + b * gxb + c * gxc + s * gxs, (-scaled * inverse_std).to(to), keep)
        tl.store(grad_mean + b * gmb + c * gmc + s * gms, (scaled * inverse_std).to(to), keep)
        tl.store(grad_log_std + b * gsb + c * gsc + s * gss, (scaled * d * inverse_std - g).to(to), keep)


def _plan(x: Tensor) -> tuple[tuple[int, int, int], dict[str, Any], tuple[int, int]]:
    """Batch, channels and sites of x, the tile for it, and the grid."""
    batch, channels, sites = x.shape[0], x.shape[1:2].numel(), x.shape[2:].numel()
    tile = min(TILE, triton.next_power_of_2(channels * sites))
    rows = TILE // tile
    inner = int(x.dim() > 2 and _strides(x)[2] != 1)
    constants = {"CHANNELS_INNER": inner, "ACC": _ACC[_triton.wide(x)], "ROWS": rows, "TILE": tile}
    return (batch, channels, sites), constants, (triton.cdiv(batch, rows), triton.cdiv(channels * sites, tile))


def _strides(tensor: Tensor) -> tuple[int, int, int]:
    """Strides as [B, C, sites]; sites that share one element have a stride of 0."""
    return (tensor.stride(0), 0, 0) if tensor.dim() == 1 else _triton.strides(tensor)


def _collapsible(tensor: Tensor) -> Tensor:
    constant = all(size == 1 or stride == 0 for size, stride in zip(tensor.shape[2:], tensor.stride()[2:], strict=True))
    return tensor if constant else _triton.collapsible(tensor)


_ACC = {torch.float32: tl.float32, torch.float64: tl.float64}


def _run_forward(x: Tensor, mean: Tensor, log_std: Tensor, standard: bool) -> Tensor:
    x, mean, log_std = _collapsible(x), _collapsible(mean), _collapsible(log_std)
    if not x.numel():
        return x.new_zeros(x.shape[0], dtype=_triton.wide(x))
    sizes, constants, grid = _plan(x)
    partial = x.new_empty(x.shape[0], grid[1], dtype=_triton.wide(x))
    _forward[grid](x, mean, log_std, partial, *sizes, *_strides(x), *_strides(mean), *_strides(log_std),
                   STANDARD=standard, **constants)  # fmt: skip
    return partial[:, 0] if grid[1] == 1 else partial.sum(1)


def _run_backward(grad: Tensor, inputs: tuple[Tensor, Tensor, Tensor], standard: bool) -> tuple[Tensor, ...]:
    x, mean, log_std = inputs
    grads = tuple(map(torch.empty_like, inputs[:1] if standard else inputs))
    if not x.numel():
        return grads
    direct = [g if _collapsible(g) is g else g.contiguous() for g in grads]
    x, mean, log_std = map(_collapsible, inputs)
    sizes, constants, grid = _plan(x)
    outputs = direct * 3 if standard else direct
    strides = [stride for tensor in (x, mean, log_std, *outputs) for stride in _strides(tensor)]
    _backward[grid](grad.contiguous(), x, mean, log_std, *outputs, *sizes, *strides, STANDARD=standard, **constants)
    return tuple(g if d is g else g.copy_(d) for g, d in zip(grads, direct, strict=True))


def gaussian_log_prob(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    return _run_forward(x, mean, log_std, False)


def gaussian_log_prob_backward(grad: Tensor, x: Tensor, mean: Tensor, log_std: Tensor) -> tuple[Tensor, ...]:
    return _run_backward(grad, (x, mean, log_std), False)


def standard_normal_log_prob(x: Tensor) -> Tensor:
    return _run_forward(x, x, x, True)


def standard_normal_log_prob_backward(grad: Tensor, x: Tensor) -> Tensor:
    return _run_backward(grad, (x, x, x), True)[0]


def _ahead_of_time(kernel: triton.JITFunction, wide: str) -> AheadOfTime:
    constants = {"STANDARD": False, "CHANNELS_INNER": 0, "ACC": tl.float32, "ROWS": 1, "TILE": TILE}
    pointers = dict.fromkeys(("x", "mean", "log_std", "grad_x", "grad_mean", "grad_log_std"), "*bf16") | {wide: "*fp32"}
    signature = {name: pointers.get(name, "i64") for name in kernel.arg_names if name not in constants}
    return AheadOfTime(kernel, signature, constants)


AHEAD_OF_TIME = [_ahead_of_time(_forward, "out"), _ahead_of_time(_backward, "grad")]
