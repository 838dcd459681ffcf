"""How gradients pass a quantiser, whose own derivative is zero: straight through, or turned with the vector."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Routed(torch.autograd.Function):
    """The value of the code, and the gradient of the vector."""

    @staticmethod
    def forward(x: Tensor, quantized: Tensor, dim: int, rotate: bool) -> Tensor:
        return quantized.to(x.dtype, copy=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        x, quantized, ctx.dim, ctx.rotate = inputs
        if ctx.rotate:
            ctx.save_for_backward(x.detach(), quantized.detach())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.rotate:
            x, quantized = ctx.saved_tensors
            grad = _turned_back(grad, x, quantized, ctx.dim)
        return grad, None, None, None


def _turned_back(grad: Tensor, x: Tensor, quantized: Tensor, dim: int) -> Tensor:
    """The transpose of (|q| / |x|) R, where the rotation R takes the direction of x to that of q."""
    tiny = torch.finfo(x.dtype).tiny
    length, target = (t.norm(dim=dim, keepdim=True).clamp(min=tiny) for t in (x, quantized))
    u, q = x / length, quantized.to(x.dtype) / target
    w = u + q
    w = w / w.norm(dim=dim, keepdim=True).clamp(min=tiny)
    along_w, along_q = ((grad * t).sum(dim, keepdim=True) for t in (w, q))
    return (grad - 2 * along_w * w + 2 * along_q * u) * (target / length)


def straight_through(x: Tensor, quantized: Tensor) -> Tensor:
    """``quantized``, whose gradient goes to ``x`` unchanged (Bengio et al. 2013, arXiv:1308.3432)."""
    return _Routed.apply(x, quantized, -1, False)


def rotate_to(x: Tensor, quantized: Tensor, dim: int = -1) -> Tensor:
    r"""``quantized``, as the constant rotation and scaling of ``x`` that gives it: gradients turn with the vector.

    .. math:: q = \frac{\lVert q\rVert}{\lVert x\rVert} \left(x - 2 w w^\top x + 2 \hat q \hat x^\top x\right), \qquad
              w = \frac{\hat x + \hat q}{\lVert \hat x + \hat q \rVert}

    The value is that of ``quantized`` for every ``x``, also for 0, whose gradient is 0. Fifty et al. 2024
    (arXiv:2410.06424), section 4.2.
    """
    return _Routed.apply(x, quantized, dim, True)
