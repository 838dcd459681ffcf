"""Derivatives of the batched LU: with V = W^-T, d log|det W| = <V, dW> and d W^-1 = -W^-1 dW W^-1.

The inverse that the kernel computes beside the determinant is all that they need, so it is saved, as an output:
the second derivative goes through the same node again, to any order. At a singular matrix the derivatives are zero.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from .._library import LIBRARY, define_op
from .._library import _run as run
from .reference import flat, stacks
from .reference import lu_inverse as reference

OP = define_op(
    "lu_inverse",
    reference,
    schema="(Tensor matrices, int[] sizes, bool with_inverse) -> (Tensor, Tensor, Tensor)",
)


def lu_inverse(matrices: Tensor, sizes: list[int], with_inverse: bool, impl: str) -> tuple[Tensor, Tensor, Tensor]:
    """log|det| ``[M]``, sign ``[M]`` and inverses (flat) of a flat sequence of square matrices, in one native call."""
    if impl != "auto" or matrices.device.type not in OP.kernels or torch.compiler.is_compiling():
        return OP(matrices, sizes, with_inverse, impl=impl)
    return run(LuInverse, OP.overload, (matrices, sizes, with_inverse))


def derivatives_wanted(matrices: Tensor) -> bool:
    """Whether anything but values is asked for: reverse mode, forward mode, or a `torch.func` transform."""
    if torch.is_grad_enabled() and matrices.requires_grad:
        return True
    if torch.compiler.is_compiling():
        return False
    return torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0


class LuInverse(torch.autograd.Function):
    """The eager face."""

    @staticmethod
    def forward(matrices: Tensor, sizes: list[int], with_inverse: bool) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return OP(matrices, sizes, with_inverse)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _setup(ctx, inputs, output)
        ctx.save_for_forward(*_kept(inputs, output))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return _backward(ctx, *grads)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Any:
        log_abs_det, inverses = _regular(ctx)
        directions = stacks(tangent, ctx.sizes)
        with full_precision(tangent):
            slopes = [(v.mT * t).sum((1, 2)) for v, t in zip(inverses, directions, strict=True)]
            moves = [-v @ t @ v for v, t in zip(inverses, directions, strict=True)] if ctx.with_inverse else []
        return flat(slopes, log_abs_det), None, flat(moves, log_abs_det)

    @staticmethod
    def vmap(info: Any, in_dims: Any, matrices: Tensor, sizes: list[int], with_inverse: bool) -> Any:
        batch = info.batch_size  # a batch of sequences is a longer sequence
        outputs = LuInverse.apply(matrices.movedim(in_dims[0], 0).reshape(-1), sizes * batch, with_inverse)
        return tuple(out.unflatten(0, (batch, len(out) // batch)) for out in outputs), (0, 0, 0)


def _setup(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[1])
    ctx.sizes, ctx.with_inverse = inputs[1], inputs[2]
    ctx.save_for_backward(*_kept(inputs, output))


def _kept(inputs: Any, output: Any) -> tuple[Tensor, Tensor]:
    matrices, _, with_inverse = inputs
    log_abs_det, _, inverses = output
    return log_abs_det, inverses if with_inverse else matrices


def _regular(ctx: Any) -> tuple[Tensor, list[Tensor]]:
    """log|det|, and the inverses in stacks, zero where there is none."""
    log_abs_det, kept = ctx.saved_tensors
    flat_inverses = kept if ctx.with_inverse else lu_inverse(kept, ctx.sizes, True, "auto")[2]
    inverses = stacks(flat_inverses, ctx.sizes)
    singular = log_abs_det.detach() == -torch.inf
    if _values_are_here(singular) and not singular.any():
        return log_abs_det, inverses
    singular = singular.split([len(inverse) for inverse in inverses])
    regular = [v.masked_fill(s[:, None, None], 0) for v, s in zip(inverses, singular, strict=True)]
    return log_abs_det, regular


def _values_are_here(tensor: Tensor) -> bool:
    """Whether a question about its elements costs nothing: no device to wait for, no tracing, no `torch.func`."""
    if tensor.device.type != "cpu" or torch.compiler.is_compiling() or type(tensor) is not Tensor:
        return False
    return not torch._C._are_functorch_transforms_active()


def _backward(ctx: Any, grad_log_abs_det: Tensor | None, _: Any, grad_inverse: Tensor | None) -> Any:
    if grad_inverse is None and grad_log_abs_det is None:
        return None, None, None
    log_abs_det, inverses = _regular(ctx)
    counts = [len(inverse) for inverse in inverses]
    grads: list[Tensor] = []
    if grad_log_abs_det is not None:
        scales = grad_log_abs_det.split(counts) if len(counts) > 1 else [grad_log_abs_det]
        grads = [s[:, None, None] * v.mT for v, s in zip(inverses, scales, strict=True)]
    if grad_inverse is not None and ctx.with_inverse:
        pulls = stacks(grad_inverse, ctx.sizes)
        with full_precision(grad_inverse):
            moves = [v.mT @ pull @ v.mT for v, pull in zip(inverses, pulls, strict=True)]
        grads = [g - move for g, move in zip(grads, moves, strict=True)] if grads else [-move for move in moves]
    return flat(grads, log_abs_det), None, None


def full_precision(like: Tensor) -> AbstractContextManager[Any]:
    """No autocast: a product that it narrows spoils inverses and determinants."""
    device = like.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


torch.library.register_autograd("genkern::lu_inverse", _backward, setup_context=_setup, lib=LIBRARY)
