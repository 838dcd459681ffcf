"""The forward process on GPUs, noise drawn in registers. Launched without fusion into fma: the noise is exact."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import _triton
from .._triton import AheadOfTime
from ..random.triton import EXACT, _box_muller

TILE = 1024


@triton.jit
def _noise(key, row, sample_offset, ROWS: tl.constexpr, TILE: tl.constexpr):
    """Standard normal numbers [ROWS, TILE] of the samples `row` [ROWS, 1], four to a counter."""
    quad = tl.program_id(1).to(tl.int64) * (TILE // 4) + tl.arange(0, TILE // 4)[None, :]
    sample = row + sample_offset
    zero = tl.zeros((ROWS, TILE // 4), tl.uint32)
    seed = tl.load(key).to(tl.uint64, bitcast=True)
    counter = quad.to(tl.uint32) + zero
    x, y, z, w = tl.philox(seed, counter, zero, sample.to(tl.uint32) + zero, (sample >> 32).to(tl.uint32) + zero)
    a, b = _box_muller(x, y)
    c, d = _box_muller(z, w)
    return tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), (ROWS, TILE))  # from [ROWS, TILE / 4, 2, 2]


# one program: ROWS samples x TILE elements
@triton.jit
def _forward(x0, alpha, sigma, key, x_t, batch, elements, sample_offset, ACC: tl.constexpr, ROWS: tl.constexpr,
             TILE: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]  # [ROWS, 1]
    element = tl.program_id(1).to(tl.int64) * TILE + tl.arange(0, TILE)[None, :]  # [1, TILE]
    keep = (row < batch) & (element < elements)
    noise = _noise(key, row, sample_offset, ROWS, TILE).to(ACC)
    a = tl.load(alpha + row, row < batch, other=0)
    s = tl.load(sigma + row, row < batch, other=0)
    value = a * tl.load(x0 + row * elements + element, keep, other=0).to(ACC) + s * noise
    tl.store(x_t + row * elements + element, value.to(x_t.dtype.element_ty), keep)


# one program: ROWS samples x TILE elements
@triton.jit
def _backward(grad, x0, alpha, key, grad_x0, grad_alpha, grad_sigma, batch, elements, sample_offset,
              NEEDS_X0: tl.constexpr, NEEDS_ALPHA: tl.constexpr, NEEDS_SIGMA: tl.constexpr, ACC: tl.constexpr,
              ROWS: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]  # [ROWS, 1]
    element = tl.program_id(1).to(tl.int64) * TILE + tl.arange(0, TILE)[None, :]  # [1, TILE]
    keep = (row < batch) & (element < elements)
    at = row * elements + element
    part = row * tl.num_programs(1) + tl.program_id(1)
    g = tl.load(grad + at, keep, other=0).to(ACC)
    if NEEDS_X0:
        a = tl.load(alpha + row, row < batch, other=0)
        tl.store(grad_x0 + at, (a * g).to(grad_x0.dtype.element_ty), keep)
    if NEEDS_ALPHA:
        clean = tl.load(x0 + at, keep, other=0).to(ACC)
        tl.store(grad_alpha + part, tl.sum((g * clean).to(tl.float64), axis=1)[:, None], row < batch)
    if NEEDS_SIGMA:
        noise = _noise(key, row, sample_offset, ROWS, TILE).to(ACC)
        tl.store(grad_sigma + part, tl.sum((g * noise).to(tl.float64), axis=1)[:, None], row < batch)


_ACC = {torch.float32: tl.float32, torch.float64: tl.float64}


def plan(x: Tensor) -> tuple[tuple[int, int], tuple[int, int], dict[str, Any]]:
    """Batch and elements, the grid, and the constants."""
    batch, elements = x.shape[0], x.shape[1:].numel()
    tile = min(TILE, max(4, triton.next_power_of_2(elements)))
    constants = {"ACC": _ACC[_triton.wide(x)], "ROWS": TILE // tile, "TILE": tile}
    return (batch, elements), (triton.cdiv(batch, TILE // tile), triton.cdiv(elements, tile)), constants | EXACT


def in_order_of(like: Tensor, contiguous: Tensor) -> Tensor:
    """A contiguous result with the strides of `like`."""
    return contiguous if like.is_contiguous() else torch.empty_like(like).copy_(contiguous)


def _run(x0: Tensor, alpha: Tensor, sigma: Tensor, key: Tensor, sample_offset: int, x_t: Tensor) -> None:
    if x0.numel():
        sizes, grid, constants = plan(x0)
        _forward[grid](x0.contiguous(), alpha.contiguous(), sigma.contiguous(), key, x_t, *sizes, sample_offset,
                       **constants)  # fmt: skip


def q_sample(x0: Tensor, alpha: Tensor, sigma: Tensor, key: Tensor, sample_offset: int) -> Tensor:
    x_t = torch.empty(x0.shape, dtype=x0.dtype, device=x0.device)
    _run(x0, alpha, sigma, key, sample_offset, x_t)
    return in_order_of(x0, x_t)


def q_sample_out(x0: Tensor, alpha: Tensor, sigma: Tensor, key: Tensor, sample_offset: int, out: Tensor) -> None:
    x_t = out if out.is_contiguous() else torch.empty(x0.shape, dtype=x0.dtype, device=x0.device)
    _run(x0, alpha, sigma, key, sample_offset, x_t)
    if x_t is not out:
        out.copy_(x_t)


def q_sample_backward(
    grad: Tensor, x0: Tensor, alpha: Tensor, sigma: Tensor, key: Tensor, sample_offset: int,
    needs_x0: bool = True, needs_alpha: bool = True, needs_sigma: bool = True,
) -> tuple[Tensor, ...]:  # fmt: skip
    sizes, grid, constants = plan(x0)
    needs = needs_x0, needs_alpha, needs_sigma
    if not x0.numel():
        return tuple(
            like.new_zeros(like.shape if need else 0) for like, need in zip((x0, alpha, sigma), needs, strict=True)
        )
    grad_x0 = torch.empty(x0.shape if needs_x0 else 0, dtype=x0.dtype, device=x0.device)
    shapes = [(sizes[0], grid[1]) if need else (0, 1) for need in needs[1:]]
    parts = [alpha.new_empty(shape, dtype=torch.float64) for shape in shapes]
    _backward[grid](grad.contiguous(), x0.contiguous(), alpha.contiguous(), key, grad_x0, *parts, *sizes, sample_offset,
                    NEEDS_X0=needs_x0, NEEDS_ALPHA=needs_alpha, NEEDS_SIGMA=needs_sigma, **constants)  # fmt: skip
    return in_order_of(x0, grad_x0) if needs_x0 else grad_x0, *(part.sum(1).to(alpha.dtype) for part in parts)


_CONSTANTS = {"ACC": tl.float32, "ROWS": 1, "TILE": TILE}
_SIZES = {"batch": "i64", "elements": "i64", "sample_offset": "i64"}
AHEAD_OF_TIME = [
    AheadOfTime(
        _forward,
        {"x0": "*bf16", "alpha": "*fp32", "sigma": "*fp32", "key": "*i64", "x_t": "*bf16"} | _SIZES,
        _CONSTANTS,
        EXACT,
    ),
    AheadOfTime(
        _backward,
        {"grad": "*bf16", "x0": "*bf16", "alpha": "*fp32", "key": "*i64", "grad_x0": "*bf16", "grad_alpha": "*fp64",
         "grad_sigma": "*fp64"} | _SIZES,
        {"NEEDS_X0": True, "NEEDS_ALPHA": True, "NEEDS_SIGMA": True} | _CONSTANTS,
        EXACT,
    ),
]  # fmt: skip
