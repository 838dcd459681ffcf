"""Dequantisation on GPUs, noise drawn in registers. Launched without fusion into fma: the noise is exact."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import _triton
from .._triton import AheadOfTime
from ..random.triton import EXACT, _uniform

TILE = 1024


@triton.jit
def _divide(a, b):
    return tl.div_rn(a, b) if a.dtype == tl.float32 else a / b


@triton.jit
def _below(positive):
    if positive.dtype == tl.float32:
        return (positive.to(tl.int32, bitcast=True) - 1).to(tl.float32, bitcast=True)
    else:
        return (positive.to(tl.int64, bitcast=True) - 1).to(tl.float64, bitcast=True)


# one program: ROWS samples x TILE elements, four to a counter
@triton.jit
def _dequantize(x, key, y, terms, batch, elements, sample_offset, levels, alpha, margin, LOGIT: tl.constexpr,
                ACC: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]  # [ROWS, 1]
    element = tl.program_id(1).to(tl.int64) * TILE + tl.arange(0, TILE)[None, :]  # [1, TILE]
    keep = (row < batch) & (element < elements)

    quad = tl.program_id(1).to(tl.int64) * (TILE // 4) + tl.arange(0, TILE // 4)[None, :]
    sample = row + sample_offset
    zero = tl.zeros((ROWS, TILE // 4), tl.uint32)
    counter = quad.to(tl.uint32) + zero
    seed = tl.load(key).to(tl.uint64, bitcast=True)
    a, b, c, d = tl.philox(seed, counter, zero, sample.to(tl.uint32) + zero, (sample >> 32).to(tl.uint32) + zero)
    u = tl.join(tl.join(_uniform(a), _uniform(c)), tl.join(_uniform(b), _uniform(d)))  # [ROWS, TILE / 4, 2, 2]
    u = tl.reshape(u, (ROWS, TILE)).to(ACC)

    level = tl.load(x + row * elements + element, keep, other=0).to(ACC)
    steps = tl.zeros((ROWS, TILE), ACC) + levels
    high = _divide(level + 1.0, steps)
    valid = (level >= 0) & (level < levels)
    value = tl.minimum(_divide(level + u, steps), _below(tl.where(valid, high, 1.0)))
    if LOGIT:
        value = tl.minimum(tl.maximum(value, _divide(level, steps) + margin), high - margin)
        value = tl.where(valid, value, 0.5)
        p = tl.log(alpha + (1.0 - 2.0 * alpha) * value)
        q = tl.log(alpha + (1.0 - 2.0 * alpha) * (1.0 - value))
        value = p - q
        term = tl.where(valid, -(p + q), float("nan"))
        total = tl.sum(tl.where(keep, term, 0.0), axis=1)[:, None]
        tl.store(terms + row * tl.num_programs(1) + tl.program_id(1), total, row < batch)
    value = tl.where(valid, value, float("nan"))
    tl.store(y + row * elements + element, value.to(y.dtype.element_ty), keep)


# one program: TILE elements
@triton.jit
def _quantize(y, x, count, levels, alpha, LOGIT: tl.constexpr, ACC: tl.constexpr, TILE: tl.constexpr):
    index = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    keep = index < count
    value = tl.load(y + index, keep, other=0).to(ACC)
    if LOGIT:
        e = _triton.exp(-tl.abs(value))
        small = e / (1.0 + e)
        value = (tl.where(value < 0, small, 1.0 - small) - alpha) / (1.0 - 2.0 * alpha)
    steps = tl.zeros((TILE,), ACC) + levels
    level = value * steps
    level = tl.where(level > 0, level, 0.0)  # also of NaN
    level = tl.floor(tl.minimum(level, steps - 1.0))
    level = tl.where((level > 0) & (value < _divide(level, steps)), level - 1.0, level)
    level = tl.where((level < steps - 1.0) & (value >= _divide(level + 1.0, steps)), level + 1.0, level)
    tl.store(x + index, level.to(tl.int32).to(x.dtype.element_ty), keep)


_ACC = {torch.float32: tl.float32, torch.float64: tl.float64}


def dequantize(
    x: Tensor, key: Tensor, levels: int, alpha: float | None, margin: float, dtype: torch.dtype, sample_offset: int
) -> tuple[Tensor, Tensor]:
    x, batch, elements = x.contiguous(), x.shape[0], x.shape[1:].numel()
    y = torch.empty(x.shape, dtype=dtype, device=x.device)
    wide = _triton.wide(y)
    volume = elements * ((0.0 if alpha is None else math.log1p(-2 * alpha)) - math.log(levels))
    log_det = torch.full((batch,), volume, dtype=wide, device=x.device)
    if not x.numel():
        return y, log_det
    tile = min(TILE, max(4, triton.next_power_of_2(elements)))
    grid = triton.cdiv(batch, TILE // tile), triton.cdiv(elements, tile)
    terms = log_det if alpha is None else torch.empty((batch, grid[1]), dtype=wide, device=x.device)
    _dequantize[grid](x, key, y, terms, batch, elements, sample_offset, float(levels), alpha or 0.0, margin,
                      LOGIT=alpha is not None, ACC=_ACC[wide], ROWS=TILE // tile, TILE=tile, **EXACT)  # fmt: skip
    return y, log_det if alpha is None else log_det + terms.sum(1)


def quantize(y: Tensor, levels: int, alpha: float | None, dtype: torch.dtype) -> Tensor:
    y = y.contiguous()
    x = torch.empty(y.shape, dtype=dtype, device=y.device)
    if x.numel():
        _quantize[(triton.cdiv(x.numel(), TILE),)](y, x, x.numel(), float(levels), alpha or 0.0,
                                                   LOGIT=alpha is not None, ACC=_ACC[_triton.wide(y)], TILE=TILE,
                                                   **EXACT)  # fmt: skip
    return x


AHEAD_OF_TIME = [
    AheadOfTime(
        _dequantize,
        {"x": "*u8", "key": "*i64", "y": "*fp32", "terms": "*fp32", "batch": "i64", "elements": "i64",
         "sample_offset": "i64", "levels": "fp32", "alpha": "fp32", "margin": "fp32"},
        {"LOGIT": True, "ACC": tl.float32, "ROWS": 1, "TILE": TILE},
        EXACT,
    ),
    AheadOfTime(
        _quantize,
        {"y": "*fp32", "x": "*u8", "count": "i64", "levels": "fp32", "alpha": "fp32"},
        {"LOGIT": True, "ACC": tl.float32, "TILE": TILE},
        EXACT,
    ),
]  # fmt: skip
