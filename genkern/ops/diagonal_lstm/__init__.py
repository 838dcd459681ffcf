"""LSTMs over the cells of a picture, one call for all of them: along its diagonals, and from row to row."""

from __future__ import annotations

from torch import Tensor

from .._checks import check, promote
from .._library import define_op
from . import reference

_op = define_op(
    "diagonal_lstm",
    reference.diagonal_lstm,
    schema="(Tensor x, Tensor weight, str order) -> Tensor",
    differentiable=("x", "weight"),
)


def diagonal_lstm(x: Tensor, weight: Tensor, *, impl: str = "auto") -> Tensor:
    r"""The recurrence of the diagonal LSTM: every cell follows from the one to its left and the one above.

    .. math::
        [o, f, i, g]_{r,s} &= [\sigma, \sigma, \sigma, \tanh](x_{r,s} + W_0 h_{r-1,s} + W_1 h_{r,s-1}) \\
        c_{r,s} &= f \odot c_{r,s-1} + i \odot g, \qquad h_{r,s} = o \odot \tanh c_{r,s}

    with ``h = c = 0`` outside of the picture: a convolution of two taps down the columns of the map whose row ``r`` is
    moved ``r`` columns to the right. A cell sees all that lies above and to the left of it. Only the cells of the
    picture are computed, a diagonal at a time, and nothing is saved for the backward pass but the arguments.

    Args:
        x: input-to-state sums with their bias, ``[B, 4h, H, W]``: output, forget, input gate and content, in turn.
        weight: state-to-state, ``[4h, h, 2]``: ``W_0`` of the cell above, ``W_1`` of the cell to the left.
        impl: ``"auto"``, or ``"torch"`` for the definition.

    Returns:
        ``h``, ``[B, h, H, W]``, with the channels innermost in memory (`torch.channels_last`), which is also the
        layout of ``x`` that is read without a copy.

    Raises:
        ValueError: if shapes or devices do not fit.
        TypeError: if a dtype is not float64, float32, bfloat16 or float16.

    First and second derivatives in ``x`` and ``weight``; CPU and CUDA; the state is carried in float32 or wider.
    van den Oord et al. 2016 (arXiv:1601.06759), section 3.2, eq. 3.

    >>> import torch
    >>> diagonal_lstm(torch.randn(2, 4 * 3, 5, 7), torch.randn(4 * 3, 3, 2)).shape
    torch.Size([2, 3, 5, 7])
    """
    x, weight = _check("diagonal_lstm", x, weight)
    check(weight.shape[2] == 2, "diagonal_lstm", "weight", "[4h, h, 2]", weight.shape)
    return _run(x, weight, "diagonal", impl)


def row_lstm(x: Tensor, weight: Tensor, *, impl: str = "auto") -> Tensor:
    r"""The recurrence of the row LSTM: every row follows from the one above, by a convolution along it.

    .. math::
        [o, f, i, g]_{r,s} &= [\sigma, \sigma, \sigma, \tanh](x_{r,s} + \sum_k W_k h_{r-1,s+k-(K-1)/2}) \\
        c_{r,s} &= f \odot c_{r-1,s} + i \odot g, \qquad h_{r,s} = o \odot \tanh c_{r,s}

    with ``h = c = 0`` outside of the picture. A cell sees a triangle above it.

    Args:
        x: input-to-state sums with their bias, ``[B, 4h, H, W]``: output, forget, input gate and content, in turn.
        weight: state-to-state, ``[4h, h, K]`` with odd ``K``.
        impl: ``"auto"``, or ``"torch"`` for the definition.

    Returns:
        ``h``, ``[B, h, H, W]``, as `diagonal_lstm`.

    Raises:
        ValueError, TypeError: as `diagonal_lstm`.

    First and second derivatives in ``x`` and ``weight``; CPU and CUDA; the state is carried in float32 or wider.
    van den Oord et al. 2016 (arXiv:1601.06759), section 3.1, eq. 3.

    >>> import torch
    >>> row_lstm(torch.randn(2, 4 * 3, 5, 7), torch.randn(4 * 3, 3, 3)).shape
    torch.Size([2, 3, 5, 7])
    """
    x, weight = _check("row_lstm", x, weight)
    check(weight.shape[2] % 2 == 1, "row_lstm", "weight", "[4h, h, K] with odd K", weight.shape)
    return _run(x, weight, "rows", impl)


def _check(function: str, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    x, weight = promote(function, x=x, weight=weight)
    check(x.dim() == 4 and x.shape[1] % 4 == 0 and x.shape[1] > 0, function, "x", "[B, 4h, H, W]", x.shape)
    fits = weight.dim() == 3 and weight.shape[:2] == (x.shape[1], x.shape[1] // 4)
    check(fits, function, "weight", "[4h, h, taps]", (weight.shape, "x is", x.shape))
    return x, weight


def _run(x: Tensor, weight: Tensor, order: str, impl: str) -> Tensor:
    h = _op(x.permute(0, 2, 3, 1).contiguous(), weight.contiguous(), order, impl=impl)
    return h.permute(0, 3, 1, 2)


__all__ = ["diagonal_lstm", "row_lstm"]
