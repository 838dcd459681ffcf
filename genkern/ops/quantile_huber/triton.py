"""The quantile Huber loss on GPUs."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import _triton
from .._triton import AheadOfTime

TILE = 1024
_ACC = {torch.float32: tl.float32, torch.float64: tl.float64}


@triton.jit
def _parts(x, q, tau, kappa, i, n, ACC: tl.constexpr):
    """u, the signed weight tau - 1{u < 0}, and L / kappa."""
    u = tl.load(x + i, i < n, other=0).to(ACC) - tl.load(q + i, i < n, other=0).to(ACC)
    weight = tl.load(tau + i, i < n, other=0).to(ACC) - tl.where(u < 0, 1.0, 0.0)
    size = tl.abs(u)
    return u, weight, tl.where(size <= kappa, u * u / (2.0 * kappa), size - 0.5 * kappa)


# one program: TILE elements
@triton.jit
def _forward(x, q, tau, kappa, loss, n, ACC: tl.constexpr, TILE: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    _, weight, huber = _parts(x, q, tau, kappa, i, n, ACC)
    tl.store(loss + i, tl.abs(weight) * huber, i < n)


@triton.jit
def _backward(grad, x, q, tau, kappa, grad_x, grad_q, grad_tau, n, X: tl.constexpr, Q: tl.constexpr, TAU: tl.constexpr,
              ACC: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    u, weight, huber = _parts(x, q, tau, kappa, i, n, ACC)
    g = tl.load(grad + i, i < n, other=0).to(ACC)
    slope = g * tl.abs(weight) * tl.minimum(tl.maximum(u / kappa, -1.0), 1.0)
    if X:
        tl.store(grad_x + i, slope.to(grad_x.dtype.element_ty), i < n)
    if Q:
        tl.store(grad_q + i, (-slope).to(grad_q.dtype.element_ty), i < n)
    if TAU:
        sign = tl.where(weight > 0, 1.0, tl.where(weight < 0, -1.0, 0.0))
        tl.store(grad_tau + i, (g * sign * huber).to(grad_tau.dtype.element_ty), i < n)


def quantile_huber(x: Tensor, q: Tensor, tau: Tensor, kappa: float) -> Tensor:
    x, q, tau = x.contiguous(), q.contiguous(), tau.contiguous()
    loss = torch.empty_like(x, dtype=_triton.wide(x))
    if n := x.numel():
        _forward[(triton.cdiv(n, TILE),)](x, q, tau, kappa, loss, n, ACC=_ACC[loss.dtype], TILE=TILE)
    return loss


def quantile_huber_backward(
    grad: Tensor, x: Tensor, q: Tensor, tau: Tensor, kappa: float, needs_x: bool = True, needs_q: bool = True,
    needs_tau: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    grad, x, q, tau = grad.contiguous(), x.contiguous(), q.contiguous(), tau.contiguous()
    needs = (needs_x, needs_q, needs_tau)
    grads = [torch.empty_like(t) if needed else t.new_empty(0) for t, needed in zip((x, q, tau), needs, strict=True)]
    if n := x.numel():
        _backward[(triton.cdiv(n, TILE),)](
            grad, x, q, tau, kappa, *grads, n, X=needs_x, Q=needs_q, TAU=needs_tau, ACC=_ACC[_triton.wide(x)], TILE=TILE
        )
    first, second, third = grads
    return first, second, third


_TYPES = dict.fromkeys(("x", "q", "tau", "grad_x", "grad_q", "grad_tau"), "*bf16") | {
    "loss": "*fp32",
    "grad": "*fp32",
    "kappa": "fp32",
    "n": "i64",
}
_CONSTANTS = {"ACC": tl.float32, "TILE": TILE}
AHEAD_OF_TIME = [
    AheadOfTime(kernel, {name: _TYPES[name] for name in kernel.arg_names if name in _TYPES}, _CONSTANTS | extra)
    for kernel, extra in ((_forward, {}), (_backward, {"X": True, "Q": True, "TAU": True}))
]
