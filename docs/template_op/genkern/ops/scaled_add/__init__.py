"""Scaled addition: one pass over both inputs."""

from __future__ import annotations

from torch import Tensor

from .._checks import check, promote
from .._library import define_op
from . import reference

_op = define_op(
    "scaled_add",
    reference.scaled_add,
    schema="(Tensor x, Tensor update, float decay, float scale) -> Tensor",
    differentiable=("x", "update"),
)


def scaled_add(x: Tensor, update: Tensor, *, decay: float = 1.0, scale: float = 1.0, impl: str = "auto") -> Tensor:
    r"""Adds a multiple of one tensor to a multiple of another.

    .. math:: y = d \, x + c \, u

    Args:
        x: any shape.
        update: :math:`u`, of the shape of ``x``.
        decay: :math:`d`.
        scale: :math:`c`.
        impl: ``"auto"``, or ``"torch"`` for the definition.

    Returns:
        ``y`` like ``x``.

    Raises:
        ValueError: if shapes or devices differ.
        TypeError: if a dtype is not float64, float32, bfloat16 or float16.

    First and second derivatives in ``x`` and ``update``; CPU and CUDA.

    >>> import torch
    >>> scaled_add(torch.ones(3), torch.ones(3), scale=0.5)
    tensor([1.5000, 1.5000, 1.5000])
    """
    x, update = promote("scaled_add", x=x, update=update)
    check(update.shape == x.shape, "scaled_add", "update", "of the shape of x", (update.shape, "x is", x.shape))
    return _op(x.contiguous(), update.contiguous(), float(decay), float(scale), impl=impl)


__all__ = ["scaled_add"]
