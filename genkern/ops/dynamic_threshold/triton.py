"""Quantiles of magnitudes on GPUs: an order statistic is found bit by bit, as they are ordered like their bits."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import _triton
from .._triton import AheadOfTime

TILE = 2048


@triton.jit
def _bits(x, row, start, elements, ACC: tl.constexpr, INTEGER: tl.constexpr, TILE: tl.constexpr):
    """Magnitudes as non-negative integers of one tile, and which of its elements there are."""
    element = start + tl.arange(0, TILE)
    keep = element < elements
    value = tl.abs(tl.load(x + row * elements + element, keep, other=0).to(ACC))
    return value.to(INTEGER, bitcast=True), keep


# one program: a sample
@triton.jit
def _quantile(x, threshold, elements, below, weight, lowest, highest, ACC: tl.constexpr, INTEGER: tl.constexpr,
              BITS: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    low = tl.full((), 0, INTEGER)  # the largest with at most `below` magnitudes less than it
    for b in range(BITS):
        candidate = low | (tl.full((), 1, INTEGER) << (BITS - 1 - b))
        less = tl.zeros((TILE,), tl.int64)
        for start in range(0, elements, TILE):
            bits, keep = _bits(x, row, start, elements, ACC, INTEGER, TILE)
            less += (keep & (bits < candidate)).to(tl.int64)
        low = tl.where(tl.sum(less) <= below, candidate, low)
    most = tl.full((), 1, INTEGER) << (BITS - 1)
    most = most | (most - 1)
    up_to = tl.zeros((TILE,), tl.int64)
    above = tl.zeros((TILE,), INTEGER) + most
    largest = tl.zeros((TILE,), INTEGER)
    for start in range(0, elements, TILE):
        bits, keep = _bits(x, row, start, elements, ACC, INTEGER, TILE)
        up_to += (keep & (bits <= low)).to(tl.int64)
        above = tl.minimum(above, tl.where(keep & (bits > low), bits, most))
        largest = tl.maximum(largest, tl.where(keep, bits, 0))
    high = tl.where((tl.sum(up_to) > below + 1) | (below + 1 >= elements), low, tl.min(above))
    first, second, last = low.to(ACC, bitcast=True), high.to(ACC, bitcast=True), tl.max(largest).to(ACC, bitcast=True)
    value = tl.where((high == low) | (weight == 0), first, first + weight * (second - first))
    value = tl.minimum(tl.maximum(value, lowest), highest)
    tl.store(threshold + row, tl.where(last != last, last, value))


_TYPES = {torch.float32: (tl.float32, tl.int32, 31), torch.float64: (tl.float64, tl.int64, 63)}


def dynamic_threshold(x: Tensor, below: int, weight: float, lowest: float, highest: float) -> Tensor:
    x, elements = x.contiguous(), x.shape[1:].numel()
    threshold = torch.empty(x.shape[0], dtype=_triton.wide(x), device=x.device)
    if x.shape[0]:
        acc, integer, bits = _TYPES[threshold.dtype]
        tile = min(TILE, triton.next_power_of_2(elements))
        _quantile[(x.shape[0],)](x, threshold, elements, below, weight, lowest, highest, ACC=acc, INTEGER=integer,
                                 BITS=bits, TILE=tile)  # fmt: skip
    return threshold


AHEAD_OF_TIME = [
    AheadOfTime(
        _quantile,
        {"x": "*bf16", "threshold": "*fp32", "elements": "i64", "below": "i64", "weight": "fp32", "lowest": "fp32",
         "highest": "fp32"},
        {"ACC": tl.float32, "INTEGER": tl.int32, "BITS": 31, "TILE": TILE},
    )
]  # fmt: skip
