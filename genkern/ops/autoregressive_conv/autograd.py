"""Derivatives of the triangular solve x = A^-1 y: with v = A^-T g they are v in y and -v x^T in the weight.

The transposed convolution sees its pixels in the opposite order, so A^-T is another such solve, and every derivative of
any order is made of solves and convolutions. The solution is what is kept for them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from .._library import LIBRARY, define_op
from .reference import autoregressive_conv, autoregressive_solve, autoregressive_taps, live_taps, seen_pixels

OP = define_op(
    "autoregressive_solve",
    autoregressive_solve,
    schema="(Tensor y, Tensor weight, bool square, bool reverse) -> Tensor",
)

TAPS = define_op(
    "autoregressive_taps",
    autoregressive_taps,
    schema="(Tensor weight, bool square, bool reverse) -> (Tensor, Tensor)",
    differentiable=("weight",),
    wide=(1,),
)


def _like_y(y: Tensor, weight: Tensor, square: bool, reverse: bool) -> Tensor:
    return torch.empty_like(y)


torch.library.register_fake("genkern::autoregressive_solve", _like_y, lib=LIBRARY)


def solve(y: Tensor, weight: Tensor, square: bool, reverse: bool, impl: str = "auto") -> Tensor:
    """The ``x`` of which ``y`` is the autoregressive convolution, ``[B, C, H, W]``, in one native call."""
    if impl != "auto" or y.device.type not in OP.kernels or torch.compiler.is_compiling():
        return OP(y, weight, square, reverse, impl=impl)
    if _derivatives_wanted(y, weight):
        return AutoregressiveSolve.apply(y, weight, square, reverse)
    return OP(y, weight, square, reverse)


def _derivatives_wanted(*tensors: Tensor) -> bool:
    """Whether anything but values is asked for: reverse mode, forward mode, or a `torch.func` transform."""
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return True
    return torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0


class AutoregressiveSolve(torch.autograd.Function):
    """The eager face."""

    @staticmethod
    def forward(y: Tensor, weight: Tensor, square: bool, reverse: bool) -> Tensor:
        with torch._C._AutoDispatchBelowAutograd():
            return OP(y, weight, square, reverse)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _setup(ctx, inputs, output)
        ctx.save_for_forward(inputs[1], output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return _backward(ctx, grad)

    @staticmethod
    def jvp(ctx: Any, y: Tensor | None, weight: Tensor | None, *_: Any) -> Tensor:
        fixed, x = ctx.saved_tensors
        moved = torch.zeros_like(x) if y is None else y
        if weight is not None:
            moved = moved - autoregressive_conv(x, weight, *ctx.order)
        return solve(moved, fixed, *ctx.order)

    @staticmethod
    def vmap(info: Any, in_dims: Any, y: Tensor, weight: Tensor, square: bool, reverse: bool) -> Any:
        size, (y_dim, weight_dim) = info.batch_size, in_dims[:2]
        if weight_dim is None:  # a batch of batches is a longer batch
            folded = y.movedim(y_dim, 0)
            return solve(folded.flatten(0, 1), weight, square, reverse).view_as(folded), 0
        ys = [y] * size if y_dim is None else y.unbind(y_dim)
        lanes = zip(ys, weight.unbind(weight_dim), strict=True)
        return torch.stack([solve(*lane, square, reverse) for lane in lanes]), 0


def _setup(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.order = inputs[2:]
    ctx.save_for_backward(inputs[1], output)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
    weight, x = ctx.saved_tensors
    square, reverse = ctx.order
    pulled = solve(grad, weight.transpose(0, 1).flip(2, 3), square, not reverse)
    if not ctx.needs_input_grad[1]:
        return pulled, None, None, None
    return pulled, -_weight_gradient(x, pulled, weight.shape, square, reverse), None, None


def _weight_gradient(x: Tensor, grad: Tensor, shape: torch.Size, square: bool, reverse: bool) -> Tensor:
    """That of the convolution: one product for each sample, and a sum in order, the same for any number of threads."""
    height, width = x.shape[2:]
    rows, columns = int(shape[2]) // 2, int(shape[3]) // 2
    way = -1 if reverse else 1
    places = [(rows - way * dy, columns - way * dx) for dy, dx in seen_pixels(rows, columns, square)]
    padded = pad(x, (columns, columns, rows, rows))
    windows = torch.cat([padded[:, :, a : a + height, b : b + width] for a, b in places], 1)  # [B, taps * C, H, W]
    products = (grad.flatten(2) @ windows.flatten(2).mT).sum(0).chunk(len(places), 1)  # [C, C] each
    found = dict(zip(places, products, strict=True))
    none = torch.zeros_like(products[0])
    taps = [found.get((a, b), none) for a in range(2 * rows + 1) for b in range(2 * columns + 1)]
    return live_taps(torch.stack(taps, -1).view(shape), square, reverse)


torch.library.register_autograd("genkern::autoregressive_solve", _backward, setup_context=_setup, lib=LIBRARY)
