"""Divergences of Gaussians on GPUs: partial sums for each tile of a sample; gradients in one pass."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import _triton
from .._triton import AheadOfTime
from ..discretized_gaussian.bins import exp_minus_1_minus

TILE = 1024


# one program: ROWS samples x TILE elements
@triton.jit
def _forward(mean, logvar, prior_mean, prior_logvar, sums, batch, elements, ACC: tl.constexpr, ROWS: tl.constexpr,
             TILE: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]  # [ROWS, 1]
    element = tl.program_id(1).to(tl.int64) * TILE + tl.arange(0, TILE)[None, :]  # [1, TILE]
    keep = (row < batch) & (element < elements)
    at = row * elements + element
    w = tl.load(prior_logvar + at, keep, other=0).to(ACC)
    d = tl.load(logvar + at, keep, other=0).to(ACC) - w
    error = tl.load(mean + at, keep, other=0).to(ACC) - tl.load(prior_mean + at, keep, other=0).to(ACC)
    capped = tl.minimum(d, 80.0)
    excess = exp_minus_1_minus(capped, _triton.exp(capped)) + (capped - d)
    term = 0.5 * (excess + error * error * _triton.exp(-tl.maximum(w, -80.0)))
    total = tl.sum(tl.where(keep, term, 0.0), axis=1)[:, None]
    tl.store(sums + row * tl.num_programs(1) + tl.program_id(1), total, row < batch)


# one program: ROWS samples x TILE elements
@triton.jit
def _backward(grad, mean, logvar, prior_mean, prior_logvar, grad_mean, grad_logvar, grad_prior_mean, grad_prior_logvar,
              batch, elements, NEEDS_MEAN: tl.constexpr, NEEDS_LOGVAR: tl.constexpr, NEEDS_PRIOR_MEAN: tl.constexpr,
              NEEDS_PRIOR_LOGVAR: tl.constexpr, ACC: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]  # [ROWS, 1]
    element = tl.program_id(1).to(tl.int64) * TILE + tl.arange(0, TILE)[None, :]  # [1, TILE]
    keep = (row < batch) & (element < elements)
    at = row * elements + element
    g = tl.load(grad + row, row < batch, other=0).to(ACC)
    w = tl.load(prior_logvar + at, keep, other=0).to(ACC)
    d = tl.load(logvar + at, keep, other=0).to(ACC) - w
    error = tl.load(mean + at, keep, other=0).to(ACC) - tl.load(prior_mean + at, keep, other=0).to(ACC)
    capped = tl.minimum(d, 80.0)
    scaled = g * error * _triton.exp(-tl.maximum(w, -80.0))
    of_d = 0.5 * g * tl.where(d > 80.0, -1.0, exp_minus_1_minus(capped, _triton.exp(capped)) + capped)
    to = mean.dtype.element_ty
    if NEEDS_MEAN:
        tl.store(grad_mean + at, scaled.to(to), keep)
    if NEEDS_LOGVAR:
        tl.store(grad_logvar + at, of_d.to(to), keep)
    if NEEDS_PRIOR_MEAN:
        tl.store(grad_prior_mean + at, (-scaled).to(to), keep)
    if NEEDS_PRIOR_LOGVAR:
        tl.store(grad_prior_logvar + at, (-of_d - tl.where(w < -80.0, 0.0, 0.5 * error * scaled)).to(to), keep)


# -- launchers ---------------------------------------------------------------------------------------------------------

_ACC = {torch.float32: tl.float32, torch.float64: tl.float64}


def _plan(mean: Tensor) -> tuple[tuple[int, int], tuple[int, int], dict[str, Any]]:
    """Sizes, the grid, and the constants."""
    batch, elements = mean.shape[0], mean.shape[1:].numel()
    tile = min(TILE, triton.next_power_of_2(elements))
    constants = {"ACC": _ACC[_triton.wide(mean)], "ROWS": TILE // tile, "TILE": tile}
    return (batch, elements), (triton.cdiv(batch, TILE // tile), triton.cdiv(elements, tile)), constants


def gaussian_kl(mean: Tensor, logvar: Tensor, prior_mean: Tensor, prior_logvar: Tensor) -> Tensor:
    if not mean.numel():
        return mean.new_zeros(mean.shape[0], dtype=_triton.wide(mean))
    sizes, grid, constants = _plan(mean)
    sums = mean.new_empty(mean.shape[0], grid[1], dtype=_triton.wide(mean))
    inputs = (value.contiguous() for value in (mean, logvar, prior_mean, prior_logvar))
    _forward[grid](*inputs, sums, *sizes, **constants)
    return sums.sum(1)


def gaussian_kl_backward(
    grad: Tensor, mean: Tensor, logvar: Tensor, prior_mean: Tensor, prior_logvar: Tensor, needs_mean: bool = True,
    needs_logvar: bool = True, needs_prior_mean: bool = True, needs_prior_logvar: bool = True,
) -> tuple[Tensor, ...]:  # fmt: skip
    inputs = mean, logvar, prior_mean, prior_logvar
    needs = needs_mean, needs_logvar, needs_prior_mean, needs_prior_logvar
    grads = [torch.empty(like.shape if need else 0, dtype=like.dtype, device=like.device)
             for like, need in zip(inputs, needs, strict=True)]  # fmt: skip
    if mean.numel():
        sizes, grid, constants = _plan(mean)
        _backward[grid](grad.contiguous(), *(value.contiguous() for value in inputs), *grads, *sizes,
                        NEEDS_MEAN=needs_mean, NEEDS_LOGVAR=needs_logvar, NEEDS_PRIOR_MEAN=needs_prior_mean,
                        NEEDS_PRIOR_LOGVAR=needs_prior_logvar, **constants)  # fmt: skip
    return tuple(
        value if value.shape != like.shape or like.is_contiguous() else torch.empty_like(like).copy_(value)
        for like, value in zip(inputs, grads, strict=True)
    )


def _ahead_of_time(kernel: triton.JITFunction, **extra: Any) -> AheadOfTime:
    constants = {"ACC": tl.float32, "ROWS": 1, "TILE": TILE, **extra}
    types = {"batch": "i64", "elements": "i64", "grad": "*fp32", "sums": "*fp32"}
    signature = {name: types.get(name, "*bf16") for name in kernel.arg_names if name not in constants}
    return AheadOfTime(kernel, signature, constants)


AHEAD_OF_TIME = [
    _ahead_of_time(_forward),
    _ahead_of_time(_backward, NEEDS_MEAN=True, NEEDS_LOGVAR=True, NEEDS_PRIOR_MEAN=True, NEEDS_PRIOR_LOGVAR=True),
]
