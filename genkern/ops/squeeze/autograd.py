"""A squeeze is a permutation: its derivatives are squeezes, and nothing is kept for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._library import LIBRARY, Op


class _Squeeze(torch.autograd.Function):
    @staticmethod
    def forward(op: Op, x: Tensor, *arguments: Any) -> Tensor:
        return op(x, *arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.op, _, *ctx.arguments = inputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        factor, layout, inverse = ctx.arguments
        return None, _Squeeze.apply(ctx.op, grad, factor, layout, not inverse), None, None, None

    @staticmethod
    def jvp(ctx: Any, _: Any, tangent: Tensor, *ignored: Any) -> Tensor:
        return _Squeeze.apply(ctx.op, tangent, *ctx.arguments)

    @staticmethod
    def vmap(info: Any, in_dims: Any, op: Op, x: Tensor, *arguments: Any) -> Any:
        lanes = x.movedim(in_dims[1], 0)
        return _Squeeze.apply(op, lanes.flatten(0, 1), *arguments).unflatten(0, lanes.shape[:2]), 0


def register_autograd(op: Op) -> None:
    """Derivatives of the dispatcher op, for compiled code."""

    def setup(ctx: Any, inputs: Any, output: Any) -> None:
        _, *ctx.arguments = inputs

    def backward(ctx: Any, grad: Tensor) -> Any:
        factor, layout, inverse = ctx.arguments
        return op.overload(grad, factor, layout, not inverse), None, None, None

    torch.library.register_autograd(f"genkern::{op.name}", backward, setup_context=setup, lib=LIBRARY)


def call(op: Op, x: Tensor, *arguments: Any, impl: str) -> Tensor:
    """The op with derivatives of any order, in both modes, eager and compiled."""
    if impl == "auto" and not torch.compiler.is_compiling() and _differentiating(x):
        return _Squeeze.apply(op, x, *arguments)
    return op(x, *arguments, impl=impl)


def _differentiating(x: Tensor) -> bool:
    transforms = torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0
    return transforms or (x.requires_grad and torch.is_grad_enabled())
