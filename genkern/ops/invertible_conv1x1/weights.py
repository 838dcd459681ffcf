"""An activation normalisation folded into the weight of the 1x1 convolution that follows it."""

from __future__ import annotations

from torch import Tensor

from .._checks import check, check_choice, promote
from .._library import define_op, wide_dtype
from ..plu_weight import check_square
from . import matrices, reference

FORMS = ("scale_then_shift", "shift_then_scale")

_op = define_op(
    "fold_actnorm",
    reference.fold_actnorm,
    schema="(Tensor weight, Tensor log_scale, Tensor bias, Tensor log_abs_det, bool shift_first)"
    " -> (Tensor, Tensor, Tensor)",
    differentiable=("weight", "log_scale", "bias", "log_abs_det"),
    wide=(2,),
)


def fold_actnorm(
    weight: Tensor, log_scale: Tensor, bias: Tensor, *, form: str = "scale_then_shift", impl: str = "auto"
) -> tuple[Tensor, Tensor]:
    r"""Weight and bias of the one convolution that does an activation normalisation and then a 1x1 convolution.

    .. math:: W (e^{s} \odot x + b) = W \operatorname{diag}(e^{s})\, x + W b

    and with ``form="shift_then_scale"``, :math:`W (e^{s} \odot (x + b))`, the bias is :math:`W (e^{s} \odot b)`. So
    the normalisation costs nothing beyond the convolution. `folded_weight` gives the log-determinant of both, too.

    Args:
        weight: ``[C, C]``.
        log_scale, bias: ``[C]``.
        form: ``"scale_then_shift"`` or ``"shift_then_scale"``.
        impl: ``"auto"``, or ``"torch"`` for the definition.

    Returns:
        The folded ``weight``, ``[C, C]``, and ``bias``, ``[C]``.

    Raises:
        ValueError, TypeError: if shapes, devices, dtypes or the form do not fit.

    >>> weight, bias = fold_actnorm(torch.eye(2), torch.zeros(2), torch.tensor([1.0, 2.0]))
    >>> bias
    tensor([1., 2.])
    """
    weight, log_scale, bias = _check("fold_actnorm", weight, log_scale, bias, form)
    nothing = log_scale.new_zeros((), dtype=wide_dtype(weight.dtype))
    return _op(weight, log_scale, bias, nothing, form == "shift_then_scale", impl=impl)[:2]


def folded_weight(
    weight: Tensor,
    log_scale: Tensor,
    bias: Tensor,
    *,
    log_abs_det: Tensor | None = None,
    form: str = "scale_then_shift",
    impl: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Weight, bias and log-determinant of an activation normalisation and a 1x1 convolution in one.

    .. math:: W (e^{s} \odot x + b) = W \operatorname{diag}(e^{s})\, x + W b, \qquad
              \log\lvert\det W \operatorname{diag}(e^{s})\rvert = \ln\lvert\det W\rvert + \sum s

    Args:
        weight: ``[C, C]``.
        log_scale, bias: ``[C]``.
        log_abs_det: ``ln |det W|``, one element, if known; otherwise it is computed here.
        form: ``"scale_then_shift"`` or ``"shift_then_scale"``; see `fold_actnorm`.
        impl: ``"auto"``, or ``"torch"`` for the definition.

    Returns:
        The folded weight, ``[C, C]``, and bias, ``[C]``, for `invertible_conv1x1`, and the log-determinant of one
        site, in nats, one element in float32 or wider.

    Raises:
        ValueError, TypeError: if shapes, devices, dtypes or the form do not fit.

    First and second derivatives; CPU and CUDA; arithmetic in float32 or wider.

    >>> weight, shift, log_abs_det = folded_weight(2 * torch.eye(2), torch.zeros(2), torch.ones(2))
    >>> shift, log_abs_det
    (tensor([2., 2.]), tensor([1.3863]))
    """
    weight, log_scale, bias = _check("folded_weight", weight, log_scale, bias, form)
    if log_abs_det is None:
        log_abs_det = matrices.log_abs_det(weight, impl=impl)
    check(log_abs_det.numel() == 1, "folded_weight", "log_abs_det", "one element", log_abs_det.shape)
    value = log_abs_det.to(wide_dtype(weight.dtype))
    return _op(weight, log_scale, bias, value, form == "shift_then_scale", impl=impl)


def _check(function: str, weight: Tensor, log_scale: Tensor, bias: Tensor, form: str) -> list[Tensor]:
    check_choice(function, "form", form, FORMS)
    promoted = promote(function, weight=weight, log_scale=log_scale, bias=bias)
    check_square(function, "weight", weight)
    for name, value in (("log_scale", log_scale), ("bias", bias)):
        check(value.shape == weight.shape[:1], function, name, "[C]", (value.shape, "weight is", weight.shape))
    return promoted
