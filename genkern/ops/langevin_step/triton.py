"""Langevin steps on GPUs, noise drawn in registers. Launched without fusion into fma: the noise is exact."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import _triton
from .._triton import AheadOfTime
from ..random.triton import EXACT, _box_muller

TILE = 1024


# [ROWS, TILE] normal numbers: four to a counter
@triton.jit
def _normal(key, row, sample_offset, ROWS: tl.constexpr, TILE: tl.constexpr):
    quad = tl.program_id(1).to(tl.int64) * (TILE // 4) + tl.arange(0, TILE // 4)[None, :]
    sample = row + sample_offset
    zero = tl.zeros((ROWS, TILE // 4), tl.uint32)
    seed = tl.load(key).to(tl.uint64, bitcast=True)
    x, y, z, w = tl.philox(
        seed, quad.to(tl.uint32) + zero, zero, sample.to(tl.uint32) + zero, (sample >> 32).to(tl.uint32) + zero
    )
    a, b = _box_muller(x, y)
    c, d = _box_muller(z, w)
    return tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), (ROWS, TILE))


@triton.jit
def _within(value, low, high):
    return tl.where(value < low, low, tl.where(value > high, high, value))  # NaN stays NaN


# one program: ROWS samples x TILE elements
@triton.jit
def _step(x, grad, cotangent, key, steps, scales, out, out_grad, batch, elements, sample_offset, step, scale, limit,
          low, high, EACH_STEP: tl.constexpr, EACH_SCALE: tl.constexpr, DRAW: tl.constexpr, FIRST: tl.constexpr,
          BACKWARD: tl.constexpr, ACC: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]  # [ROWS, 1]
    element = tl.program_id(1).to(tl.int64) * TILE + tl.arange(0, TILE)[None, :]  # [1, TILE]
    keep = (row < batch) & (element < elements)
    at = row * elements + element
    a = tl.load(steps + row, row < batch, other=0) if EACH_STEP else tl.zeros((ROWS, 1), ACC) + step
    b = tl.load(scales + row, row < batch, other=0) if EACH_SCALE else tl.zeros((ROWS, 1), ACC) + scale
    value = tl.load(x + at, keep, other=0).to(ACC)
    slope = tl.load(grad + at, keep, other=0).to(ACC)
    value += a * _within(slope, -limit, limit)
    noise = b * _normal(key, row, sample_offset, ROWS, TILE).to(ACC) if DRAW else tl.zeros((ROWS, TILE), ACC)
    if BACKWARD:
        value += noise
        d = tl.load(cotangent + at, keep, other=0).to(ACC)
        d = tl.where((value >= low) & (value <= high), d, 0.0)
        tl.store(out + at, d.to(out.dtype.element_ty), keep)
        d = tl.where((slope >= -limit) & (slope <= limit), d * a, 0.0)
        tl.store(out_grad + at, d.to(out.dtype.element_ty), keep)
    else:
        value = _within(value, low, high) + noise if FIRST else _within(value + noise, low, high)
        tl.store(out + at, value.to(out.dtype.element_ty), keep)


# one program: ROWS samples x TILE elements; sums of squares of the tile
@triton.jit
def _squares(grad, key, of_grad, of_noise, batch, elements, sample_offset, ACC: tl.constexpr, ROWS: tl.constexpr,
             TILE: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    element = tl.program_id(1).to(tl.int64) * TILE + tl.arange(0, TILE)[None, :]
    keep = (row < batch) & (element < elements)
    slope = tl.load(grad + row * elements + element, keep, other=0).to(ACC)
    noise = tl.where(keep, _normal(key, row, sample_offset, ROWS, TILE).to(ACC), 0.0)
    slot = row * tl.num_programs(1) + tl.program_id(1)
    tl.store(of_grad + slot, tl.sum(slope * slope, axis=1)[:, None], row < batch)
    tl.store(of_noise + slot, tl.sum(noise * noise, axis=1)[:, None], row < batch)


_ACC = {torch.float32: tl.float32, torch.float64: tl.float64}


def _grid(batch: int, elements: int) -> tuple[tuple[int, int], int]:
    tile = min(TILE, max(4, triton.next_power_of_2(elements)))
    return (triton.cdiv(batch, TILE // tile), triton.cdiv(elements, tile)), tile


def _launch(
    cotangent: Tensor | None,
    out: Tensor,
    out_grad: Tensor | None,
    x: Tensor,
    grad: Tensor,
    key: Tensor,
    step: Tensor | None,
    scale: Tensor | None,
    step_number: float,
    scale_number: float,
    clamp_grad: float | None,
    low: float | None,
    high: float | None,
    noise_first: bool,
    sample_offset: int,
) -> None:
    if not x.numel():
        return
    backward = cotangent is not None
    bounded = low is not None or high is not None
    draws = scale is not None or scale_number != 0
    if backward:  # noise after the clamp, or without one, has no part in the gradient
        draws = draws and bounded and not noise_first
    x, grad = x.contiguous(), grad.contiguous()
    batch, elements = x.shape[0], x.shape[1:].numel()
    if x.dtype == torch.float64:  # numbers reach a kernel in float32
        step = x.new_full((batch,), step_number) if step is None else step
        scale = x.new_full((batch,), scale_number) if scale is None else scale
    grid, tile = _grid(batch, elements)
    _step[grid](x, grad, x if cotangent is None else cotangent.contiguous(), key,
                x if step is None else step.contiguous(), x if scale is None else scale.contiguous(),
                out, out if out_grad is None else out_grad, batch, elements, sample_offset,
                step_number, scale_number, math.inf if clamp_grad is None else clamp_grad,
                -math.inf if low is None else low, math.inf if high is None else high,
                EACH_STEP=step is not None, EACH_SCALE=scale is not None, DRAW=draws, FIRST=noise_first,
                BACKWARD=backward, ACC=_ACC[_triton.wide(x)], ROWS=TILE // tile, TILE=tile, **EXACT)  # fmt: skip


def langevin_step(x: Tensor, *rest) -> Tensor:  # type: ignore[no-untyped-def]
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _launch(None, out, None, x, *rest)
    return out


def langevin_step_out(x: Tensor, *rest) -> None:  # type: ignore[no-untyped-def]
    out = rest[-1]
    dense = out if out.is_contiguous() else torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _launch(None, dense, None, x, *rest[:-1])
    if dense is not out:
        out.copy_(dense)


def langevin_step_backward(cotangent: Tensor, x: Tensor, *rest) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
    of_x, of_grad = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for _ in range(2))
    _launch(cotangent, of_x, of_grad, x, *rest)
    return of_x, of_grad


def langevin_norms(grad: Tensor, key: Tensor, sample_offset: int) -> tuple[Tensor, Tensor]:
    wide, batch, elements = _triton.wide(grad), grad.shape[0], grad.shape[1:].numel()
    if not grad.numel():
        return torch.zeros(batch, dtype=wide, device=grad.device), torch.zeros(batch, dtype=wide, device=grad.device)
    grid, tile = _grid(batch, elements)
    of_grad, of_noise = (torch.empty((batch, grid[1]), dtype=wide, device=grad.device) for _ in range(2))
    _squares[grid](grad.contiguous(), key, of_grad, of_noise, batch, elements, sample_offset,
                   ACC=_ACC[wide], ROWS=TILE // tile, TILE=tile, **EXACT)  # fmt: skip
    return of_grad.sum(1).sqrt(), of_noise.sum(1).sqrt()


_SIGNATURE = {"x": "*fp32", "grad": "*fp32", "cotangent": "*fp32", "key": "*i64", "steps": "*fp32", "scales": "*fp32",
              "out": "*fp32", "out_grad": "*fp32", "batch": "i64", "elements": "i64", "sample_offset": "i64",
              "step": "fp32", "scale": "fp32", "limit": "fp32", "low": "fp32", "high": "fp32"}  # fmt: skip
_CONSTANTS = {"EACH_STEP": True, "EACH_SCALE": False, "DRAW": True, "ACC": tl.float32, "ROWS": 1, "TILE": TILE}
AHEAD_OF_TIME = [
    AheadOfTime(_step, _SIGNATURE, _CONSTANTS | {"FIRST": False, "BACKWARD": False}, EXACT),
    AheadOfTime(_step, _SIGNATURE, _CONSTANTS | {"FIRST": True, "BACKWARD": False}, EXACT),
    AheadOfTime(_step, _SIGNATURE, _CONSTANTS | {"FIRST": False, "BACKWARD": True}, EXACT),
    AheadOfTime(
        _squares,
        {"grad": "*bf16", "key": "*i64", "of_grad": "*fp32", "of_noise": "*fp32", "batch": "i64", "elements": "i64",
         "sample_offset": "i64"},
        {"ACC": tl.float32, "ROWS": 1, "TILE": TILE},
        EXACT,
    ),
]  # fmt: skip
