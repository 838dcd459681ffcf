"""Monotone rational-quadratic splines: one pass from a network's raw output to the output and the log-determinant."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._checks import check, check_choice, check_mask, promote
from .._library import define_op
from . import reference

TAILS = ("linear", "circular", None)
LAYOUTS = ("parameters_first", "parameters_last")

_op = define_op(
    "rational_quadratic_spline",
    reference.rational_quadratic_spline,
    schema="(Tensor x, Tensor params, Tensor? mask, int bins, float bound, str tails, str layout, bool flip,"
    " float min_bin, float min_slope, float offset, bool inverse) -> (Tensor, Tensor)",
    differentiable=("x", "params"),
    wide=(1,),
)


def spline_parameters(bins: int, tails: str | None = "linear") -> int:
    """How many numbers describe one spline: K widths, K heights, and K - 1, K or K + 1 slopes.

    Args:
        bins: K.
        tails: ``"linear"``, ``"circular"`` or None, as for `rational_quadratic_spline`.

    Returns:
        The number of channels that a network must give for each element.

    Raises:
        ValueError: if there are no bins, or for other tails.

    >>> spline_parameters(8), spline_parameters(8, "circular"), spline_parameters(8, None)
    (23, 24, 25)
    """
    check_choice("spline_parameters", "tails", tails, TAILS)
    check(bins >= 1, "spline_parameters", "bins", "at least 1", bins)
    return 3 * bins + reference.SLOPES_LESS_BINS[tails or "none"]


def rational_quadratic_spline(
    x: Tensor,
    params: Tensor,
    *,
    bins: int = 8,
    bound: float = 3.0,
    tails: str | None = "linear",
    mask: Tensor | None = None,
    layout: str = "parameters_first",
    flip: bool = False,
    min_bin: float = 1e-3,
    min_slope: float = 1e-3,
    unit_slope: bool = True,
    inverse: bool = False,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    r"""Sends each element through a monotone spline of its own, on ``[-bound, bound]``; beyond, it passes unchanged.

    Between knots :math:`(x_k, y_k)` and :math:`(x_{k+1}, y_{k+1})` with slopes :math:`d_k, d_{k+1}`, and with
    :math:`s = (y_{k+1} - y_k) / (x_{k+1} - x_k)`, :math:`t = (x - x_k) / (x_{k+1} - x_k)`,

    .. math:: y = y_k + (y_{k+1} - y_k) \frac{s t^2 + d_k t (1 - t)}{s + (d_k + d_{k+1} - 2s)\, t (1 - t)},
              \qquad \log\lvert\det J\rvert = \sum \log \frac{dy}{dx}

    Widths and heights of the K bins are :math:`2B (m + (1 - K m)\, \mathrm{softmax})` of raw numbers, slopes are
    :math:`m' + \mathrm{softplus}(r + c)`.

    Args:
        x: input, ``[B, C, *]``; the last ``C_b`` channels are transformed, the others pass unchanged.
        params: raw numbers, ``[B, P * C_b, *]``, with ``0 < C_b <= C``: K widths, K heights, and the slopes.
        bins: K.
        bound: B.
        tails: ``"linear"``: slope 1 at both ends, so that the derivative is continuous everywhere (``P = 3K - 1``);
            ``"circular"``: one slope for both ends, for angles in ``[-bound, bound]`` (``P = 3K``); None: any slopes
            at the ends, for data in ``[-bound, bound]`` (``P = 3K + 1``).
        mask: ``[C, *]``, true where an element passes unchanged (checkerboards); then ``C_b = C``.
        layout: the order of the channels of ``params``: ``"parameters_first"`` is ``[P, C_b]``,
            ``"parameters_last"`` is ``[C_b, P]``.
        flip: transform the first ``C_b`` channels instead of the last.
        min_bin: m, the least width and height of a bin as a share of ``2 * bound``.
        min_slope: m', the least slope at a knot.
        unit_slope: raw slopes of 0 mean a slope of 1, ``c = ln(e^(1 - m') - 1)``, so that raw zeros are the identity;
            otherwise ``c = 0``.
        inverse: solve for ``x`` instead; the log-determinant changes sign.
        impl: ``"auto"``, or ``"torch"`` for the definition.

    Returns:
        ``y`` like ``x``, and ``log_det`` in nats, ``[B]``, float32 or wider.

    Raises:
        ValueError: if shapes, devices, names or numbers do not fit.
        TypeError: if a dtype is not float64, float32, bfloat16 or float16.

    First and second derivatives in ``x`` and ``params``; CPU and CUDA. A pair of dtypes is promoted as in PyTorch.
    Positions between knots are computed in float64, whatever the dtype, and nothing is subtracted after that.
    Durkan et al. 2019 (arXiv:1906.04032), eq. 4-8; on circles Rezende et al. 2020 (arXiv:2002.02428).

    >>> y, log_det = rational_quadratic_spline(torch.randn(8, 6), torch.randn(8, 23 * 3))
    >>> log_det.shape
    torch.Size([8])
    >>> x = torch.linspace(-4, 4, 5)[:, None]
    >>> torch.allclose(rational_quadratic_spline(x, torch.zeros(5, 23))[0], x)
    True
    """
    op = "rational_quadratic_spline"
    x, params = promote(op, x=x, params=params)
    check_choice(op, "tails", tails, TAILS)
    check_choice(op, "layout", layout, LAYOUTS)
    check(bins >= 1, op, "bins", "at least 1", bins)
    check(0 < bound < math.inf, op, "bound", "positive and finite", bound)
    check(0 < min_bin < 1 / bins, op, "min_bin", f"between 0 and 1 / bins = {1 / bins:.4g}", min_bin)
    check(0 < min_slope < 1, op, "min_slope", "between 0 and 1", min_slope)
    _check_shapes(op, x, params, mask, spline_parameters(bins, tails))
    offset = math.log(math.expm1(1 - min_slope)) if unit_slope else 0.0
    passes = None if mask is None else mask.to(torch.uint8)
    return _op(
        x.contiguous(), params.contiguous(), passes, bins, float(bound), tails or "none", layout, flip,
        float(min_bin), float(min_slope), offset, inverse, impl=impl,
    )  # fmt: skip


def _check_shapes(op: str, x: Tensor, params: Tensor, mask: Tensor | None, count: int) -> None:
    check(x.dim() >= 2, op, "x", "[B, C, *]", x.shape)
    shape = params.shape
    fits = params.dim() == x.dim() and shape[0] == x.shape[0] and shape[2:] == x.shape[2:]
    check(fits, op, "params", "[B, C', *] with the B and * of x", (shape, "x is", x.shape))
    if mask is None:
        fits = shape[1] % count == 0 and 0 < shape[1] // count <= x.shape[1]
        check(fits, op, "params", f"of {count} * C_b channels for some 0 < C_b <= C", (shape, "x is", x.shape))
        return
    fits = shape[1] == count * x.shape[1]
    check(fits, op, "params", f"of {count} * C channels under a mask", (shape, "x is", x.shape))
    check_mask(op, mask, x.shape[1:], x.device)


__all__ = ["rational_quadratic_spline", "spline_parameters"]
