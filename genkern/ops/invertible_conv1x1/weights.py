"""Weights of the 1x1 convolution: the PLU parametrisation, and an activation normalisation folded in."""

from __future__ import annotations

import torch
from torch import Tensor

from .._checks import check, promote

FORMS = ("scale_then_shift", "shift_then_scale")


def fold_actnorm(
    weight: Tensor, log_scale: Tensor, bias: Tensor, *, form: str = "scale_then_shift"
) -> tuple[Tensor, Tensor]:
    r"""Weight and bias of the one convolution that does an activation normalisation and then a 1x1 convolution.

    .. math:: W (e^{s} \odot x + b) = W \operatorname{diag}(e^{s})\, x + W b

    and with ``form="shift_then_scale"``, :math:`W (e^{s} \odot (x + b))`, the bias is :math:`W (e^{s} \odot b)`. So
    the normalisation costs nothing beyond the convolution. Its log-determinant stays what it was: pass
    ``log_abs_det(weight) + log_scale.float().sum()``, or let the op take it from the folded weight.

    Args:
        weight: ``[C, C]``.
        log_scale, bias: ``[C]``.
        form: ``"scale_then_shift"`` or ``"shift_then_scale"``.

    Returns:
        The folded ``weight``, ``[C, C]``, and ``bias``, ``[C]``.

    Raises:
        ValueError, TypeError: if shapes, devices, dtypes or the form do not fit.

    >>> weight, bias = fold_actnorm(torch.eye(2), torch.zeros(2), torch.tensor([1.0, 2.0]))
    >>> bias
    tensor([1., 2.])
    """
    check(form in FORMS, "fold_actnorm", "form", f"one of {FORMS}", repr(form))
    weight, log_scale, bias = promote("fold_actnorm", weight=weight, log_scale=log_scale, bias=bias)
    check_square("fold_actnorm", "weight", weight)
    for name, value in (("log_scale", log_scale), ("bias", bias)):
        check(value.shape == weight.shape[:1], "fold_actnorm", name, "[C]", (value.shape, "weight is", weight.shape))
    scaled = weight * log_scale.exp()
    return scaled, ((weight if form == "scale_then_shift" else scaled) * bias).sum(1)


def plu_weight(p: Tensor, lower: Tensor, upper: Tensor, log_s: Tensor, sign_s: Tensor) -> Tensor:
    r"""The weight of a 1x1 convolution from its LU factors, whose log-determinant is ``log_s.sum()``.

    .. math:: W = P L \,(U + \operatorname{diag}(\operatorname{sign}_s \odot e^{\log s})), \qquad
              \log\lvert\det W\rvert = \sum \log s

    Args:
        p: rows of ``L U`` in the order of ``W``, int64 ``[C]``: ``W[i]`` is row ``p[i]``.
        lower: ``[C, C]``; what lies below the diagonal is used, the diagonal is 1.
        upper: ``[C, C]``; what lies above the diagonal is used.
        log_s, sign_s: ``[C]``.

    Returns:
        ``W``, ``[C, C]``, also under autocast in the dtype of the factors.

    Raises:
        ValueError, TypeError: if shapes, devices or dtypes do not fit.

    Kingma & Dhariwal 2018 (arXiv:1807.03039), eq. 10-11.

    >>> w = torch.tensor([[0.0, 2.0], [3.0, 0.0]])
    >>> plu_weight(*plu_factors(w))
    tensor([[0., 2.],
            [3., 0.]])
    """
    lower, upper, log_s, sign_s = promote("plu_weight", lower=lower, upper=upper, log_s=log_s, sign_s=sign_s)
    check_square("plu_weight", "lower", lower)
    channels = lower.shape[:1]
    check(upper.shape == lower.shape, "plu_weight", "upper", "like lower", (upper.shape, "lower is", lower.shape))
    for name, value in (("p", p), ("log_s", log_s), ("sign_s", sign_s)):
        check(value.shape == channels, "plu_weight", name, "[C]", (value.shape, "lower is", lower.shape))
    check(p.dtype == torch.int64, "plu_weight", "p", "int64", p.dtype, TypeError)
    identity = torch.eye(len(lower), dtype=lower.dtype, device=lower.device)
    with torch.autocast(lower.device.type, enabled=False):
        product = (lower.tril(-1) + identity) @ (upper.triu(1) + torch.diag(sign_s * log_s.exp()))
    return product[p]


def plu_factors(weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The arguments of `plu_weight` that give ``weight``, ``[C, C]``: for an initial value. Computed in float64.

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
