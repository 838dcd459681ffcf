"""Draws from categoricals on GPUs: all classes of a few columns in registers, read once."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import _triton
from .._triton import AheadOfTime

ELEMENTS = 4096  # of a program's tile, where the classes are fewer


@triton.jit
def _ordered(x, WIDE: tl.constexpr):
    """Integers in the order of the floating-point numbers."""
    if WIDE:
        bits = x.to(tl.int64, bitcast=True)
        return tl.where(bits < 0, bits ^ 0x7FFFFFFFFFFFFFFF, bits)
    else:
        bits = x.to(tl.int32, bitcast=True)
        return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def _is_kept(x, exists, k, WIDE: tl.constexpr):
    """Which of the classes are the k largest, the first of equals before the others."""
    order = tl.where(exists, _ordered(x, WIDE).to(tl.int64), -0x7FFFFFFFFFFFFFFF)
    low = tl.min(tl.where(exists, order, 0x7FFFFFFFFFFFFFFF), axis=0)[None, :]  # at least k are >= low
    high = tl.max(order, axis=0)[None, :]  # fewer than k are > high
    for _ in range(64 if WIDE else 33):
        middle = (low >> 1) + (high >> 1) + ((low | high) & 1)  # the mean, rounded up
        enough = tl.sum((order >= middle).to(tl.int32), axis=0)[None, :] >= k
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, tl.maximum(middle - 1, low))
    larger = order > low
    equal = ((order == low) & exists).to(tl.int32)
    room = k - tl.sum(larger.to(tl.int32), axis=0)[None, :]
    return larger | ((equal != 0) & (tl.cumsum(equal, axis=0) <= room))


# one program: all classes of COLUMNS columns
@triton.jit
def _sample(logits, noise, index, log_prob, classes, inner, columns, temperature, top_k, MODE: tl.constexpr,
            TOP_K: tl.constexpr, WIDE: tl.constexpr, CLASSES: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    ACC: tl.constexpr = tl.float64 if WIDE else tl.float32
    column = tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    v = tl.arange(0, CLASSES)[:, None]
    exists = (v < classes) & (column < columns)[None, :]
    at = (column // inner * classes * inner + column % inner)[None, :] + v.to(tl.int64) * inner
    x = tl.load(logits + at, exists, other=float("-inf")).to(ACC)
    x = tl.where((column < columns)[None, :], x, 0.0)
    top = tl.max(x, axis=0)[None, :]
    plain = _triton.exp(x - top)
    plain = tl.where(v < classes, plain, 0.0)
    if MODE:
        chosen = tl.min(tl.where((x == top) & (v < classes), v, CLASSES), axis=0)
    else:
        weights = tl.where(v < classes, _triton.exp((x - top) / temperature), 0.0)
        if TOP_K:
            weights = tl.where(_is_kept(x, v < classes, top_k, WIDE), weights, 0.0)
        cumulative = tl.cumsum(weights, axis=0)
        total = tl.max(cumulative, axis=0)[None, :]
        u = tl.load(noise + column, column < columns, other=0.5).to(ACC)[None, :]
        before = (cumulative <= u * total) & (cumulative < total)
        chosen = tl.sum(before.to(tl.int32), axis=0)
    value = tl.sum(tl.where(v == chosen[None, :], x, 0.0), axis=0)
    total = tl.sum(plain, axis=0)
    tl.store(index + column, chosen.to(tl.int64), column < columns)
    tl.store(log_prob + column, value - tl.max(x, axis=0) - tl.log(total), column < columns)


def categorical_sample(logits: Tensor, noise: Tensor, temperature: float, top_k: int) -> tuple[Tensor, Tensor]:
    logits, noise = logits.contiguous(), noise.contiguous()
    outer, classes, inner = logits.shape
    index = logits.new_empty(outer, inner, dtype=torch.int64)
    log_prob = logits.new_empty(outer, inner, dtype=_triton.wide(logits))
    if columns := outer * inner:
        padded = triton.next_power_of_2(classes)
        tile = max(1, min(64, ELEMENTS // padded))
        _sample[(triton.cdiv(columns, tile),)](
            logits, noise, index, log_prob, classes, inner, columns, temperature, top_k, MODE=temperature == 0,
            TOP_K=top_k > 0, WIDE=logits.dtype == torch.float64, CLASSES=padded, COLUMNS=tile,
        )  # fmt: skip
    return index, log_prob


def _ahead_of_time(**extra: Any) -> AheadOfTime:
    constants = {"MODE": False, "TOP_K": False, "WIDE": False, "CLASSES": 256, "COLUMNS": 16, **extra}
    types = {"logits": "*bf16", "noise": "*fp32", "index": "*i64", "log_prob": "*fp32", "temperature": "fp32",
             "classes": "i32", "top_k": "i32"}  # fmt: skip
    signature = {name: types.get(name, "i64") for name in _sample.arg_names if name not in constants}
    return AheadOfTime(_sample, signature, constants)


AHEAD_OF_TIME = [_ahead_of_time(TOP_K=True), _ahead_of_time(MODE=True)]
