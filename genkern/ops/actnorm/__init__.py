"""Activation normalisation: an affine map of each channel whose parameters are trained like any other."""

from __future__ import annotations

import torch
from torch import Tensor

from .._checks import alike, check, check_choice, check_floating
from .._library import define_op, wide_dtype
from . import reference

FORMS = ("scale_then_shift", "shift_then_scale")

channel_affine = define_op(
    "actnorm",
    reference.actnorm,
    schema="(Tensor x, Tensor log_scale, Tensor before, Tensor after, bool inverse) -> (Tensor, Tensor)",
    differentiable=("x", "log_scale", "before", "after"),
    wide=(1,),
    selective=True,
)


def actnorm(
    x: Tensor,
    log_scale: Tensor,
    bias: Tensor,
    *,
    form: str = "scale_then_shift",
    inverse: bool = False,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    r"""Scales and shifts each channel by learned parameters.

    .. math:: y = e^{s} \odot x + b \quad\text{or}\quad y = e^{s} \odot (x + b), \qquad
              \log\lvert\det J\rvert = \text{sites} \cdot \sum_c s_c

    Args:
        x: input, ``[B, C, *]`` with ``sites`` elements in ``*``; any dense order of dimensions is read as it lies.
        log_scale: ``s``, ``[C]``.
        bias: ``b``, ``[C]``.
        form: ``"scale_then_shift"``, or ``"shift_then_scale"`` as in the code of the paper.
        inverse: solve for ``x`` instead; the log-determinant changes sign.
        impl: ``"auto"``, or ``"torch"`` for the definition.

    Returns:
        ``y`` like ``x``, and ``log_det`` in nats, ``[B]``, float32 or wider.

    Raises:
        ValueError: if shapes, devices or names do not fit.
        TypeError: if a dtype is not float64, float32, bfloat16 or float16.

    First and second derivatives; gradients that nobody asked for cost nothing. CPU and CUDA. Parameters are read in
    float32 whatever the dtype of ``x``; one in float64 makes everything float64.
    Kingma & Dhariwal 2018 (arXiv:1807.03039), section 3.1.

    >>> y, log_det = actnorm(torch.ones(2, 3, 4, 4), torch.full((3,), 0.5), torch.zeros(3))
    >>> log_det
    tensor([24., 24.])
    """
    check_choice("actnorm", "form", form, FORMS)
    x, log_scale, bias = per_channel("actnorm", x, log_scale=log_scale, bias=bias)
    nothing = torch.zeros_like(bias)
    before, after = (nothing, bias) if form == "scale_then_shift" else (bias, nothing)
    return channel_affine(x, log_scale, before, after, inverse, impl=impl)


def per_channel(function: str, x: Tensor, **parameters: Tensor) -> list[Tensor]:
    """x [B, C, *] and its parameters [C], these in the dtype of arithmetic; float64 anywhere makes it float64."""
    found = [x, *parameters.values()]
    if alike(found) and x.dtype == wide_dtype(x.dtype) and x.dim() >= 2:  # nearly always
        channels = x.shape[1:2]
        if all(parameter.shape == channels for parameter in found[1:]):
            return found
    check_floating(function, "x", x)
    check(x.dim() >= 2, function, "x", "[B, C, *]", x.shape)
    dtype = x.dtype
    for argument, parameter in parameters.items():
        check_floating(function, argument, parameter)
        check(parameter.device == x.device, function, argument, f"on {x.device}", parameter.device)
        fits = parameter.dim() == 1 and parameter.shape[0] == x.shape[1]
        check(fits, function, argument, "[C]", (parameter.shape, "x is", x.shape))
        dtype = torch.float64 if parameter.dtype == torch.float64 else dtype
    return [x.to(dtype), *(parameter.to(wide_dtype(dtype)) for parameter in parameters.values())]


__all__ = ["actnorm"]
