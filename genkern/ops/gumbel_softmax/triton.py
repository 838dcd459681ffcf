"""Relaxed categorical draws on GPUs: all classes of a few columns in registers, their noise too."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import _triton
from .._triton import AheadOfTime
from ..random.triton import EXACT, _uniform

ELEMENTS = 4096  # of a program's tile, where the classes are fewer


# one program: all classes of COLUMNS columns; y, or where there is a gradient of y, that of the logits
@triton.jit
def _choose(logits, key, grad, out, panels, classes, inner, columns, temperature, sample_offset, HARD: tl.constexpr,
            BACKWARD: tl.constexpr, WIDE: tl.constexpr, CLASSES: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    ACC: tl.constexpr = tl.float64 if WIDE else tl.float32
    column = (tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    v = tl.arange(0, CLASSES)[:, None]
    exists = (v < classes) & (column < columns)
    sample, within = column // (panels * inner), column % (panels * inner)
    element = (within // inner * classes + v) * inner + within % inner  # of the sample
    at = sample * (panels * classes * inner) + element

    zero = tl.zeros((CLASSES, COLUMNS), tl.uint32)
    place = sample + sample_offset
    seed = tl.load(key).to(tl.uint64, bitcast=True)
    a, b, c, d = tl.philox(seed, (element // 4).to(tl.uint32) + zero, zero, place.to(tl.uint32) + zero,
                           (place >> 32).to(tl.uint32) + zero)  # fmt: skip
    word = element % 4
    u = _uniform(tl.where(word < 2, tl.where(word == 0, a, b), tl.where(word == 2, c, d))).to(ACC)

    x = tl.load(logits + at, exists, other=0).to(ACC)
    x = (x - tl.log(-tl.log(u))) / temperature
    x = tl.where(v < classes, x, float("-inf"))
    top = tl.max(x, axis=0)[None, :]
    if HARD:
        chosen = tl.min(tl.where(x == top, v, CLASSES), axis=0)[None, :]
        y = (v == chosen).to(ACC)
    else:
        y = _triton.exp(x - top)
        y = tl.where(v < classes, y, 0.0)
        y = y / tl.sum(y, axis=0)[None, :]
    if BACKWARD:
        g = tl.load(grad + at, exists, other=0).to(ACC)
        y = y * (g - tl.sum(g * y, axis=0)[None, :]) / temperature
    tl.store(out + at, y.to(out.dtype.element_ty), exists)


def _run(
    logits: Tensor, grad: Tensor | None, key: Tensor, temperature: float, hard: bool, sample_offset: int
) -> Tensor:
    logits = logits.contiguous()
    out = torch.empty_like(logits)
    _, panels, classes, inner = logits.shape
    if logits.numel():
        columns = logits.numel() // classes
        padded = triton.next_power_of_2(classes)
        tile = max(1, min(64, ELEMENTS // padded))
        _choose[(triton.cdiv(columns, tile),)](
            logits, key, logits if grad is None else grad.contiguous(), out, panels, classes, inner, columns,
            temperature, sample_offset, HARD=hard, BACKWARD=grad is not None, WIDE=logits.dtype == torch.float64,
            CLASSES=padded, COLUMNS=tile, **EXACT,
        )  # fmt: skip
    return out


def gumbel_softmax(logits: Tensor, key: Tensor, temperature: float, hard: bool, sample_offset: int) -> Tensor:
    return _run(logits, None, key, temperature, hard, sample_offset)


def gumbel_softmax_backward(
    grad: Tensor, logits: Tensor, key: Tensor, temperature: float, hard: bool, sample_offset: int
) -> Tensor:
    result = torch.empty_like(logits)
    found = _run(logits, grad, key, temperature, False, sample_offset)
    return found if result.is_contiguous() else result.copy_(found)


def _ahead_of_time(**extra: Any) -> AheadOfTime:
    constants = {"HARD": False, "BACKWARD": False, "WIDE": False, "CLASSES": 256, "COLUMNS": 16, **extra}
    types = {"logits": "*bf16", "grad": "*bf16", "out": "*bf16", "key": "*i64", "temperature": "fp32"}
    signature = {name: types.get(name, "i64") for name in _choose.arg_names if name not in constants}
    return AheadOfTime(_choose, signature, constants, EXACT)


AHEAD_OF_TIME = [_ahead_of_time(HARD=True), _ahead_of_time(BACKWARD=True)]
