"""An activation normalisation folded into the weight of the 1x1 convolution that follows it."""

from __future__ import annotations

from torch import Tensor

from .._checks import check, check_choice, promote
from ..plu_weight import check_square

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
    check_choice("fold_actnorm", "form", form, FORMS)
    weight, log_scale, bias = promote("fold_actnorm", weight=weight, log_scale=log_scale, bias=bias)
    check_square("fold_actnorm", "weight", weight)
    for name, value in (("log_scale", log_scale), ("bias", bias)):
        check(value.shape == weight.shape[:1], "fold_actnorm", name, "[C]", (value.shape, "weight is", weight.shape))
    scaled = weight * log_scale.exp()
    return scaled, ((weight if form == "scale_then_shift" else scaled) * bias).sum(1)
