"""The PLU weight on GPUs: one program, the matrices in registers; large ones and float64 run the definition."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._triton import AheadOfTime

LARGEST = 64  # channels whose tiles one program holds


@triton.jit
def _load(lower, upper, log_s, sign_s, log_scale, bias, rows, i, n, BLOCK: tl.constexpr):
    """P L and V = U + diag(sign e^s), [BLOCK, BLOCK], zero outside; and s, e^a, b."""
    inside = (i < n)[:, None] & (i < n)[None, :]
    below = tl.load(lower + rows[:, None] * n + i[None, :], inside & (i[None, :] < rows[:, None]), other=0)
    factor = tl.where(inside & (i[None, :] == rows[:, None]), 1.0, below.to(tl.float32))
    above = tl.load(upper + i[:, None] * n + i[None, :], inside & (i[None, :] > i[:, None]), other=0)
    s = tl.load(log_s + i, i < n, other=0).to(tl.float32)
    diagonal = tl.load(sign_s + i, i < n, other=0).to(tl.float32) * tl.exp(s)
    other = tl.where(inside & (i[None, :] == i[:, None]), diagonal[None, :], above.to(tl.float32))
    a = tl.load(log_scale + i, i < n, other=0).to(tl.float32)
    b = tl.load(bias + i, i < n, other=0).to(tl.float32)
    return factor, other, s, a, b


# one program: everything
@triton.jit
def _forward(p, lower, upper, log_s, sign_s, log_scale, bias, weight, shift, log_abs_det, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK).to(tl.int64)
    rows = tl.load(p + i, i < n, other=0)
    factor, other, s, a, b = _load(lower, upper, log_s, sign_s, log_scale, bias, rows, i, n, BLOCK)
    product = tl.dot(factor, other, input_precision="ieee")
    inside = (i < n)[:, None] & (i < n)[None, :]
    to = weight.dtype.element_ty
    tl.store(weight + i[:, None] * n + i[None, :], (product * tl.exp(a)[None, :]).to(to), inside)
    tl.store(shift + i, tl.sum(product * b[None, :], axis=1).to(to), i < n)
    tl.store(log_abs_det, tl.sum(s + a, axis=0))


# one program: everything; the gradient of row p[i] of L stands in row i of G V'
@triton.jit
def _backward(grad_weight, grad_shift, grad_log_abs_det, p, lower, upper, log_s, sign_s, log_scale, bias,
              of_lower, of_upper, of_log_s, of_log_scale, of_bias, n, BLOCK: tl.constexpr):  # fmt: skip
    i = tl.arange(0, BLOCK).to(tl.int64)
    rows = tl.load(p + i, i < n, other=0)
    factor, other, s, a, b = _load(lower, upper, log_s, sign_s, log_scale, bias, rows, i, n, BLOCK)
    inside = (i < n)[:, None] & (i < n)[None, :]
    at = i[:, None] * n + i[None, :]
    to = of_lower.dtype.element_ty
    product = tl.dot(factor, other, input_precision="ieee")
    g_weight = tl.load(grad_weight + at, inside, other=0).to(tl.float32) * tl.exp(a)[None, :]
    g_shift = tl.load(grad_shift + i, i < n, other=0).to(tl.float32)
    g_log_abs_det = tl.load(grad_log_abs_det)
    tl.store(of_log_scale + i, (tl.sum(g_weight * product, axis=0) + g_log_abs_det).to(to), i < n)
    tl.store(of_bias + i, tl.sum(g_shift[:, None] * product, axis=0).to(to), i < n)
    g = g_weight + g_shift[:, None] * b[None, :]
    g_lower = tl.dot(g, tl.trans(other), input_precision="ieee")
    g_lower = tl.where(i[None, :] < rows[:, None], g_lower, 0.0)
    tl.store(of_lower + rows[:, None] * n + i[None, :], g_lower.to(to), inside)
    g_upper = tl.dot(tl.trans(factor), g, input_precision="ieee")
    tl.store(of_upper + at, tl.where(i[None, :] > i[:, None], g_upper, 0.0).to(to), inside)
    diagonal = tl.sum(tl.where(i[None, :] == i[:, None], g_upper * other, 0.0), axis=1)
    tl.store(of_log_s + i, (diagonal + g_log_abs_det).to(to), i < n)


def _fits(lower: Tensor) -> bool:
    return lower.dtype != torch.float64 and len(lower) <= LARGEST


def _block(n: int) -> int:
    return max(16, triton.next_power_of_2(n))


def plu_weight(
    p: Tensor, lower: Tensor, upper: Tensor, log_s: Tensor, sign_s: Tensor, log_scale: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    from . import _op

    arguments = [t.contiguous() for t in (p, lower, upper, log_s, sign_s, log_scale, bias)]
    if not _fits(lower):
        with torch.no_grad():
            return _op.reference(*arguments)
    n = len(lower)
    weight, shift = lower.new_empty(n, n), lower.new_empty(n)
    log_abs_det = torch.empty((), dtype=torch.float32, device=lower.device)
    _forward[(1,)](*arguments, weight, shift, log_abs_det, n, BLOCK=_block(n))
    return weight, shift, log_abs_det


def plu_weight_backward(
    grad_weight: Tensor, grad_shift: Tensor, grad_log_abs_det: Tensor, *factors: Tensor
) -> tuple[Tensor, ...]:
    from . import _op

    lower = factors[1]
    grads = [t.contiguous() for t in (grad_weight, grad_shift, grad_log_abs_det)]
    arguments = [t.contiguous() for t in factors]
    if not _fits(lower):
        with torch.no_grad():
            return _op.reference_backward(*grads, *arguments)
    n = len(lower)
    found = [lower.new_empty(size) for size in ((n, n), (n, n), (n,), (n,), (n,))]
    _backward[(1,)](*grads, *arguments, *found, n, BLOCK=_block(n))
    return tuple(found)


_TYPES = {"p": "*i64", "log_abs_det": "*fp32", "grad_log_abs_det": "*fp32", "n": "i64"}
AHEAD_OF_TIME = [
    AheadOfTime(
        kernel, {name: _TYPES.get(name, "*bf16") for name in kernel.arg_names if name != "BLOCK"}, {"BLOCK": LARGEST}
    )
    for kernel in (_forward, _backward)
]
