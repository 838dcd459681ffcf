"""Scaled addition on GPUs."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import _triton
from .._triton import AheadOfTime

TILE = 1024
_ACC = {torch.float32: tl.float32, torch.float64: tl.float64}


# one program: TILE elements
@triton.jit
def _forward(x, update, decay, scale, y, n, ACC: tl.constexpr, TILE: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    value = decay * tl.load(x + i, i < n).to(ACC) + scale * tl.load(update + i, i < n).to(ACC)
    tl.store(y + i, value.to(y.dtype.element_ty), i < n)


@triton.jit
def _backward(grad_y, decay, scale, grad_x, grad_update, n, ACC: tl.constexpr, TILE: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    g = tl.load(grad_y + i, i < n).to(ACC)
    tl.store(grad_x + i, (decay * g).to(grad_x.dtype.element_ty), i < n)
    tl.store(grad_update + i, (scale * g).to(grad_update.dtype.element_ty), i < n)


def scaled_add(x: Tensor, update: Tensor, decay: float, scale: float) -> Tensor:
    x, update = x.contiguous(), update.contiguous()
    y = torch.empty_like(x)
    if n := x.numel():
        _forward[(triton.cdiv(n, TILE),)](x, update, decay, scale, y, n, ACC=_ACC[_triton.wide(x)], TILE=TILE)
    return y


def scaled_add_backward(grad_y: Tensor, x: Tensor, update: Tensor, decay: float, scale: float) -> tuple[Tensor, Tensor]:
    grad_y = grad_y.contiguous()
    grad_x, grad_update = torch.empty_like(grad_y), torch.empty_like(grad_y)
    if n := x.numel():
        _backward[(triton.cdiv(n, TILE),)](
            grad_y, decay, scale, grad_x, grad_update, n, ACC=_ACC[_triton.wide(x)], TILE=TILE
        )
    return grad_x, grad_update


_CONSTANTS = {"ACC": tl.float32, "TILE": TILE}
_TYPES = dict.fromkeys(("x", "update", "y", "grad_y", "grad_x", "grad_update"), "*bf16") | {
    "decay": "fp32",
    "scale": "fp32",
    "n": "i64",
}
AHEAD_OF_TIME = [
    AheadOfTime(kernel, {name: _TYPES[name] for name in kernel.arg_names if name in _TYPES}, _CONSTANTS)
    for kernel in (_forward, _backward)
]
