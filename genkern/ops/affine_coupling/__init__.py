"""Affine and additive coupling: one pass from the whole input and a network's raw output to the whole output."""

from __future__ import annotations

import torch
from torch import Tensor

from .._checks import check, check_choice, check_mask, promote
from .._library import define_op
from . import reference

SCALES = ("exp", "tanh", "sigmoid")
LAYOUTS = ("scale_shift", "shift_scale", "interleaved")

_op = define_op(
    "affine_coupling",
    reference.affine_coupling,
    schema="(Tensor x, Tensor params, Tensor? mask, str scale, float bound, str layout, bool flip, bool inverse)"
    " -> (Tensor, Tensor)",
    differentiable=("x", "params"),
    wide=(1,),
)


def affine_coupling(
    x: Tensor,
    params: Tensor,
    *,
    mask: Tensor | None = None,
    scale: str = "sigmoid",
    bound: float = 1.0,
    layout: str = "scale_shift",
    flip: bool = False,
    inverse: bool = False,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    r"""Scales and shifts one half of the channels by functions of the other.

    .. math:: y_a = x_a, \qquad y_b = e^{l} \odot x_b + t, \qquad \log\lvert\det J\rvert = \sum l

    with ``(s, t) = params``, the output of any network that reads ``x_a`` alone, and

    ============= =============================== ==========================================
    ``scale``     :math:`l`
    ============= =============================== ==========================================
    ``"exp"``     :math:`s`                       unbounded: float32 overflows beyond 88
    ``"tanh"``    :math:`c \tanh(s / c)`          within ``±bound``
    ``"sigmoid"`` :math:`\log \sigma(s + 2)`      below 0, as in Glow
    ============= =============================== ==========================================

    Args:
        x: input, ``[B, C, *]``; the last ``C_b <= C`` channels are transformed, the others pass unchanged.
        params: raw scale and shift, ``[B, 2 * C_b, *]``.
        mask: ``[C, *]``, true where an element passes unchanged (checkerboards); then ``C_b = C``.
        scale: ``"exp"``, ``"tanh"`` or ``"sigmoid"``.
        bound: the largest ``|l|`` of ``"tanh"``.
        layout: order of the channels of ``params``: ``"scale_shift"`` (s then t), ``"shift_scale"`` (t then s) or
            ``"interleaved"`` (t0, s0, t1, s1, ...).
        flip: transform the first ``C_b`` channels instead of the last.
        inverse: solve for ``x`` instead; the log-determinant changes sign.
        impl: ``"auto"``, or ``"torch"`` for the definition.

    Returns:
        ``y`` like ``x``, and ``log_det`` in nats, ``[B]``, float32 or wider.

    Raises:
        ValueError: if shapes, devices or names do not fit.
        TypeError: if a dtype is not float64, float32, bfloat16 or float16.

    First and second derivatives in ``x`` and ``params``; CPU and CUDA. A pair of dtypes is promoted as in PyTorch.
    Dinh et al. 2017 (arXiv:1605.08803), eq. 7-8; scale of Kingma & Dhariwal 2018 (arXiv:1807.03039).

    >>> y, log_det = affine_coupling(torch.randn(8, 6, 4, 4), torch.randn(8, 6, 4, 4))
    >>> log_det.shape
    torch.Size([8])
    """
    check_choice("affine_coupling", "scale", scale, SCALES)
    check_choice("affine_coupling", "layout", layout, LAYOUTS)
    check(bound > 0, "affine_coupling", "bound", "positive", bound)
    x, params = promote("affine_coupling", x=x, params=params)
    _check_shapes("affine_coupling", "params", x, params, mask, 2)
    x, params = _in_one_order(x, params, mask is None and layout != "interleaved")
    if layout == "interleaved" and x.dim() == 2:  # channels alternate element by element: no run to vectorise over
        layout, params = "shift_scale", torch.cat([params[:, 0::2], params[:, 1::2]], dim=1)
    return _op(x, params, _bytes(mask), scale, float(bound), layout, flip, inverse, impl=impl)


def additive_coupling(
    x: Tensor,
    shift: Tensor,
    *,
    mask: Tensor | None = None,
    flip: bool = False,
    inverse: bool = False,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    r"""Shifts one half of the channels by a function of the other; volume is preserved.

    .. math:: y_a = x_a, \qquad y_b = x_b + t, \qquad \log\lvert\det J\rvert = 0

    Args:
        x: input, ``[B, C, *]``; the last ``C_b`` channels are shifted.
        shift: ``[B, C_b, *]``.
        mask: ``[C, *]``, true where an element passes unchanged; then ``C_b = C``.
        flip: shift the first ``C_b`` channels instead.
        inverse: subtract.
        impl: ``"auto"``, or ``"torch"`` for the definition.

    Returns:
        ``y`` like ``x``, and ``log_det``: zeros, ``[B]``, float32 or wider.

    Raises:
        ValueError, TypeError: as `affine_coupling`.

    Dinh et al. 2015 (arXiv:1410.8516), section 3.2.

    >>> y, log_det = additive_coupling(torch.zeros(2, 4), torch.ones(2, 2))
    >>> y
    tensor([[0., 0., 1., 1.],
            [0., 0., 1., 1.]])
    """
    x, shift = promote("additive_coupling", x=x, shift=shift)
    _check_shapes("additive_coupling", "shift", x, shift, mask, 1)
    x, shift = _in_one_order(x, shift, mask is None)
    return _op(x, shift, _bytes(mask), "none", 1.0, "scale_shift", flip, inverse, impl=impl)


def _check_shapes(op: str, name: str, x: Tensor, params: Tensor, mask: Tensor | None, times: int) -> None:
    check(x.dim() >= 2, op, "x", "[B, C, *]", x.shape)
    shape, sites = params.shape, x.shape[2:]
    fits = params.dim() == x.dim() and shape[0] == x.shape[0] and shape[2:] == sites
    check(fits, op, name, "[B, C', *] with the B and * of x", (shape, "x is", x.shape))
    prefix = "" if times == 1 else f"{times} * "
    if mask is None:
        fits = shape[1] % times == 0 and 0 < shape[1] // times <= x.shape[1]
        check(fits, op, name, f"of {prefix}C_b channels for some 0 < C_b <= C", (shape, "x is", x.shape))
        return
    check(
        shape[1] == times * x.shape[1],
        op,
        name,
        f"of {prefix}C channels under a mask",
        (shape, "x is", x.shape),
    )
    check_mask(op, mask, x.shape[1:], x.device)


def _in_one_order(x: Tensor, params: Tensor, channels_last: bool) -> tuple[Tensor, Tensor]:
    """Both tensors contiguous, or both channels-last where runs of channels fill a vector: so are the outputs."""
    if x.is_contiguous() and params.is_contiguous():
        return x, params
    if channels_last and x.dim() in (4, 5) and params.shape[1] >= 32:
        order = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
        if x.is_contiguous(memory_format=order) and params.is_contiguous(memory_format=order):
            return x, params
    return x.contiguous(), params.contiguous()


def _bytes(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask.to(torch.uint8)


__all__ = ["additive_coupling", "affine_coupling"]
