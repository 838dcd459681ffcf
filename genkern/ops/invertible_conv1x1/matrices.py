"""Log-determinants and inverses of small square matrices of any sizes, all in one native call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._checks import check, promote
from .._library import wide_dtype
from ..plu_weight import check_square
from .autograd import derivatives_wanted, lu_inverse

Matrices = Tensor | Sequence[Tensor]


def log_abs_det(weights: Matrices, *, impl: str = "auto") -> Tensor:
    r"""``ln |det W|`` of every weight of a model in one native call.

    Args:
        weights: one square matrix ``[C, C]``, a stack ``[M, C, C]``, or a sequence of matrices of any sizes.
        impl: ``"auto"``, or ``"torch"`` for the definition.

    Returns:
        ``[M]``, float32 or wider; ``-inf`` for a singular matrix. ``[1]`` for one matrix.

    Raises:
        ValueError, TypeError: if a matrix is not square, or devices or dtypes do not fit.

    The gradient is ``W^-T`` (zero for a singular matrix), from the inverse that the same elimination yields;
    twice differentiable, also in forward mode. Computed in float64 on CPU and CUDA; on CUDA one launch without a
    host sync.

    >>> log_abs_det([torch.eye(3), 2 * torch.eye(12), torch.zeros(2, 2)])
    tensor([0.0000, 8.3178,   -inf])
    """
    flat, sizes = _flatten("log_abs_det", weights)
    return lu_inverse(flat, sizes, impl == "auto" and derivatives_wanted(flat), impl)[0]


def inverse(weights: Matrices, *, check_singular: bool = True, impl: str = "auto") -> Tensor | list[Tensor]:
    """``W^-1`` of every weight of a model in one native call; see `inverse_and_log_abs_det`.

    >>> inverse([torch.eye(2), 4 * torch.eye(1)])[1]
    tensor([[0.2500]])
    """
    return inverse_and_log_abs_det(weights, check_singular=check_singular, impl=impl)[0]


def inverse_and_log_abs_det(
    weights: Matrices, *, check_singular: bool = True, impl: str = "auto"
) -> tuple[Tensor | list[Tensor], Tensor]:
    """``W^-1`` and ``ln |det W|`` of every weight of a model in one native call, as sampling wants them.

    Args:
        weights: one square matrix ``[C, C]``, a stack ``[M, C, C]``, or a sequence of matrices of any sizes.
        check_singular: raise if a matrix is singular. On a GPU the check waits for the device; without it, and under
            `torch.compile` and `torch.func`, the inverse of a singular matrix is NaN.
        impl: ``"auto"``, or ``"torch"`` for the definition.

    Returns:
        The inverses in the form of ``weights`` (a list for a sequence) and dtype, and the log-determinants ``[M]``.

    Raises:
        ValueError: naming the first singular matrix; or if a matrix is not square or devices do not fit.
        TypeError: if a dtype is not float64, float32, bfloat16 or float16.

    Twice differentiable, also in forward mode. Computed in float64 on CPU and CUDA.

    >>> inverses, log_abs_dets = inverse_and_log_abs_det(2 * torch.eye(3).expand(5, 3, 3))
    >>> inverses.shape, log_abs_dets.shape
    (torch.Size([5, 3, 3]), torch.Size([5]))
    """
    return invert("inverse", weights, check_singular, impl)


def invert(function: str, weights: Any, check_singular: bool, impl: str) -> tuple[Any, Tensor]:
    """Inverses in the form of ``weights``, and log-determinants."""
    flat, sizes = _flatten(function, weights)
    log_abs_dets, _, inverses = lu_inverse(flat, sizes, True, impl)
    if check_singular and not torch.compiler.is_compiling():
        _check_singular(function, log_abs_dets.detach(), sizes)
    if isinstance(weights, Tensor):
        return inverses.view(weights.shape).to(weights.dtype), log_abs_dets
    pieces = inverses.split([size * size for size in sizes]) if sizes else []
    shaped = [piece.view(w.shape).to(w.dtype) for piece, w in zip(pieces, weights, strict=True)]
    return shaped, log_abs_dets


def _check_singular(function: str, log_abs_dets: Tensor, sizes: list[int]) -> None:
    if log_abs_dets.device.type == "meta" or torch._C._are_functorch_transforms_active():
        return
    singular = log_abs_dets == -torch.inf
    if singular.any():
        m = int(singular.nonzero()[0])
        name = "weight" if len(sizes) == 1 else f"weights[{m}]"
        raise ValueError(f"{function}: {name} must be invertible; got a singular [{sizes[m]}, {sizes[m]}].")


def _flatten(function: str, weights: Matrices) -> tuple[Tensor, list[int]]:
    """All matrices one after the other in float32 or wider, and their sizes."""
    if isinstance(weights, Tensor):
        (weights,) = promote(function, weights=weights)
        fits = weights.dim() in (2, 3)
        check(fits, function, "weights", "[C, C] or [M, C, C]", weights.shape)
        check_square(function, "weights", weights)
        sizes = [weights.shape[-1]] * (len(weights) if weights.dim() == 3 else 1)
        return weights.to(wide_dtype(weights.dtype)).reshape(-1), sizes
    fits = isinstance(weights, Sequence) and all(isinstance(w, Tensor) for w in weights)
    check(fits, function, "weights", "a tensor or a sequence of tensors", type(weights).__name__, TypeError)
    named = {f"weights[{m}]": w for m, w in enumerate(weights)}
    for name, w in named.items():
        check(w.dim() == 2, function, name, "[C, C]", w.shape)
        check_square(function, name, w)
    promoted = promote(function, **named) if named else []
    if not promoted:
        return torch.empty(0), []
    wide = wide_dtype(promoted[0].dtype)
    return torch.cat([w.to(wide).reshape(-1) for w in promoted]), [len(w) for w in promoted]
