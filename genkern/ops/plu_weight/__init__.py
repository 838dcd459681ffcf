"""Weights of 1x1 convolutions by their LU factors, alone or with an activation normalisation folded in."""

from __future__ import annotations

import torch
from torch import Tensor

from .._checks import check, check_floating, promote
from .._library import define_op
from . import reference

LARGE = 72  # channels from which on the products of a BLAS are faster

_op = define_op(
    "plu_weight",
    reference.plu_weight,
    schema="(Tensor p, Tensor lower, Tensor upper, Tensor log_s, Tensor sign_s, Tensor log_scale, Tensor bias)"
    " -> (Tensor, Tensor, Tensor)",
    differentiable=("lower", "upper", "log_s", "log_scale", "bias"),
    wide=(2,),
)


def plu_weight(p: Tensor, lower: Tensor, upper: Tensor, log_s: Tensor, sign_s: Tensor, *, impl: str = "auto") -> Tensor:
    r"""The weight of a 1x1 convolution from its LU factors, whose log-determinant is ``log_s.sum()``.

    .. math:: W = P L \,(U + \operatorname{diag}(\operatorname{sign}_s \odot e^{\log s})), \qquad
              \log\lvert\det W\rvert = \sum \log s

    Args:
        p: rows of ``L U`` in the order of ``W``, int64 ``[C]``: ``W[i]`` is row ``p[i]``.
        lower: ``[C, C]``; what lies below the diagonal is used, the diagonal is 1.
        upper: ``[C, C]``; what lies above the diagonal is used.
        log_s, sign_s: ``[C]``.
        impl: ``"auto"``, or ``"torch"`` for the definition.

    Returns:
        ``W``, ``[C, C]``, also under autocast in the dtype of the factors.

    Raises:
        ValueError, TypeError: if shapes, devices or dtypes do not fit.

    First and second derivatives in all but ``p`` and ``sign_s``; CPU and CUDA; arithmetic in float32 or wider.
    Kingma & Dhariwal 2018 (arXiv:1807.03039), eq. 10-11.

    >>> w = torch.tensor([[0.0, 2.0], [3.0, 0.0]])
    >>> plu_weight(*plu_factors(w))
    tensor([[0., 2.],
            [3., 0.]])
    """
    check_floating("plu_weight", "log_s", log_s)
    nothing = torch.zeros_like(log_s)
    return _call("plu_weight", p, lower, upper, log_s, sign_s, nothing, nothing, impl)[0]


def folded_plu_weight(
    p: Tensor,
    lower: Tensor,
    upper: Tensor,
    log_s: Tensor,
    sign_s: Tensor,
    log_scale: Tensor,
    bias: Tensor,
    *,
    impl: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Weight, bias and log-determinant of an activation normalisation and a 1x1 convolution in one.

    .. math:: W (e^{a} \odot x + b) = W \operatorname{diag}(e^{a})\, x + W b, \qquad
              \log\lvert\det W \operatorname{diag}(e^{a})\rvert = \sum \log s + \sum a

    Args:
        p, lower, upper, log_s, sign_s: the factors of ``W``; see `plu_weight`.
        log_scale, bias: ``a`` and ``b`` of the normalisation, ``[C]``.
        impl: ``"auto"``, or ``"torch"`` for the definition.

    Returns:
        The folded weight, ``[C, C]``, and bias, ``[C]``, for `invertible_conv1x1`, and the log-determinant of one
        site, in nats, a scalar in float32 or wider.

    Raises:
        ValueError, TypeError: if shapes, devices or dtypes do not fit.

    First and second derivatives in all but ``p`` and ``sign_s``; CPU and CUDA; arithmetic in float32 or wider.

    >>> factors = plu_factors(2 * torch.eye(2))
    >>> weight, shift, log_abs_det = folded_plu_weight(*factors, torch.zeros(2), torch.ones(2))
    >>> shift, log_abs_det
    (tensor([2., 2.]), tensor(1.3863))
    """
    return _call("folded_plu_weight", p, lower, upper, log_s, sign_s, log_scale, bias, impl)


def _call(
    function: str,
    p: Tensor,
    lower: Tensor,
    upper: Tensor,
    log_s: Tensor,
    sign_s: Tensor,
    log_scale: Tensor,
    bias: Tensor,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor]:
    check(isinstance(p, Tensor), function, "p", "an int64 tensor", type(p).__name__, TypeError)
    floating = promote(function, lower=lower, upper=upper, log_s=log_s, sign_s=sign_s, log_scale=log_scale, bias=bias)
    check_square(function, "lower", lower)
    channels = lower.shape[:1]
    check(upper.shape == lower.shape, function, "upper", "like lower", (upper.shape, "lower is", lower.shape))
    for name, value in (("p", p), ("log_s", log_s), ("sign_s", sign_s), ("log_scale", log_scale), ("bias", bias)):
        check(value.shape == channels, function, name, "[C]", (value.shape, "lower is", lower.shape))
    check(p.dtype == torch.int64, function, "p", "int64", p.dtype, TypeError)
    check(p.device == lower.device, function, "p", f"on {lower.device}", p.device)
    return _op(p, *floating, impl="torch" if impl == "auto" and channels[0] >= LARGE else impl)


def plu_factors(weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The arguments of `plu_weight` that give a weight: for an initial value. Computed in float64.

    Args:
        weight: ``[C, C]``; where it is singular, ``log_s`` has -inf.

    Returns:
        ``p``, ``lower``, ``upper``, ``log_s`` and ``sign_s``; all but ``p``, int64, in the dtype of ``weight``.

    Raises:
        ValueError, TypeError: if ``weight`` is not a square floating matrix.

    >>> p, lower, upper, log_s, sign_s = plu_factors(torch.eye(3))
    >>> log_s
    tensor([0., 0., 0.])
    """
    (weight,) = promote("plu_factors", weight=weight)
    check_square("plu_factors", "weight", weight)
    permutation, lower, upper = torch.linalg.lu(weight.detach().double())
    s = upper.diagonal()
    factors = (lower.tril(-1), upper.triu(1), s.abs().log(), s.sign())
    return permutation.argmax(1), *(factor.to(weight.dtype) for factor in factors)  # type: ignore[return-value]


def check_square(function: str, argument: str, matrix: Tensor) -> None:
    fits = matrix.dim() >= 2 and matrix.shape[-1] == matrix.shape[-2] > 0
    check(fits, function, argument, "a square matrix, not empty", matrix.shape)


__all__ = ["folded_plu_weight", "plu_factors", "plu_weight"]
