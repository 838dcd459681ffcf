"""Autoregressive k x k convolution with its log-determinant, and its inverse in one call."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from .._checks import check, check_choice, check_floating, promote
from .._library import wide_dtype
from .._precision import ieee_convolutions
from ..invertible_conv1x1.autograd import full_precision
from .autograd import TAPS, solve
from .reference import live_taps

MASKS = ("raster", "square")


def autoregressive_conv(
    x: Tensor,
    weight: Tensor,
    *,
    log_diagonal: Tensor | None = None,
    mask: str = "raster",
    reverse: bool = False,
    inverse: bool = False,
    check_singular: bool = True,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    r"""A ``k x k`` convolution in which every pixel sees itself and pixels before it only, so that it can be undone.

    .. math:: y_p = L x_p + \sum_{t} W_t x_{p - t}, \qquad
              \log\lvert\det J\rvert = H W \sum_c \ln\lvert L_{cc}\rvert

    with zeros around the picture. The taps ``t`` run over the pixels before ``p``, and ``L``, the centre tap, is lower
    triangular: a channel sees those before it. What the mask excludes is not read, and has a zero gradient. Two such
    convolutions of opposite orders make an emerging convolution, whose window is that of an ordinary one.

    Args:
        x: ``[B, C, H, W]``.
        weight: ``[C, C, k_h, k_w]`` with odd sides, ``(to, from, row, column)`` as in `torch.nn.functional.conv2d`.
        log_diagonal: ``ln |L_cc|``, ``[C]``, if known; otherwise it is taken from ``weight``. The gradient of the
            log-determinant goes where its value comes from.
        mask: ``"raster"``, all taps before the centre in raster order; or ``"square"``, those of them neither below
            nor after it, a quadrant, which the authors' experiments use and which is undone in fewer steps.
        reverse: the opposite order: a pixel sees those after it, and a channel those after it.
        inverse: solve for ``x`` instead; the log-determinant changes sign.
        check_singular: with ``inverse``, raise if ``L`` has a zero on its diagonal. On a GPU the check waits for the
            device; without it, and under `torch.compile` and `torch.func`, a singular weight gives infinities or NaN.
        impl: ``"auto"``, or ``"torch"`` for the definition.

    Returns:
        ``y`` like ``x``, and ``log_det`` in nats, ``[B]``, float32 or wider; ``-inf`` where ``L`` is singular.

    Raises:
        ValueError: if shapes or devices do not fit, or a singular weight is to be inverted.
        TypeError: if a dtype is not float64, float32, bfloat16 or float16.

    Derivatives of any order, also through the inverse, which is a triangular solve, and its gradient another one: one
    native call each, on CUDA one launch. Dtypes are promoted as in PyTorch, and kept under autocast, which would spoil
    the inverse; that is computed in float32 (float64 for float64). So is a convolution of float32 on CUDA, except under
    `torch.compile`, where ``torch.backends.cudnn.conv.fp32_precision`` decides.
    Hoogeboom et al. 2019 (arXiv:1901.11137), section 3.

    >>> x, weight = torch.randn(2, 3, 8, 8), 0.1 * torch.randn(3, 3, 3, 3)
    >>> weight[:, :, 1, 1] += torch.eye(3)
    >>> y, log_det = autoregressive_conv(x, weight)
    >>> torch.allclose(autoregressive_conv(y, weight, inverse=True)[0], x, atol=1e-4)
    True
    """
    function = "autoregressive_conv"
    x, weight = _check(function, x, weight, log_diagonal)
    check_choice(function, "mask", mask, MASKS)
    check(impl in ("auto", "torch"), function, "impl", "'auto' or 'torch'", repr(impl))
    dtype, wide = x.dtype, wide_dtype(x.dtype)
    square = mask == "square"
    padding = weight.shape[2] // 2, weight.shape[3] // 2
    with full_precision(x), ieee_convolutions(x):
        if log_diagonal is None or not inverse:
            taps, total = TAPS(weight.contiguous() if impl == "auto" else weight.to(wide), square, reverse, impl=impl)
        if log_diagonal is not None:
            total = log_diagonal.to(wide).sum()
        if inverse:  # in float32 or wider: a rounded solution is the source of what follows it
            if check_singular and not torch.compiler.is_compiling():
                _check_singular(function, weight.detach()[:, :, padding[0], padding[1]].diagonal())
            y = solve(x.to(wide), weight.to(wide), square, reverse, impl).to(dtype)
        else:
            y = conv2d(x.to(taps.dtype), taps, padding=padding).to(dtype)
    pixels = x.shape[2] * x.shape[3]
    log_det = ((-pixels if inverse else pixels) * total).expand(len(x))
    return y, log_det


def _check(function: str, x: Tensor, weight: Tensor, log_diagonal: Tensor | None) -> list[Tensor]:
    x, weight = promote(function, x=x, weight=weight)
    check(x.dim() == 4 and x.shape[1:].numel() > 0, function, "x", "[B, C, H, W]", x.shape)
    channels = x.shape[1]
    fits = weight.dim() == 4 and weight.shape[:2] == (channels, channels)
    odd = fits and all(size % 2 == 1 for size in weight.shape[2:])
    check(odd, function, "weight", "[C, C, k_h, k_w] with odd k_h and k_w", (weight.shape, "x is", x.shape))
    if log_diagonal is not None:
        check_floating(function, "log_diagonal", log_diagonal)
        fits = log_diagonal.shape == (channels,)
        check(fits, function, "log_diagonal", "[C]", (log_diagonal.shape, "x is", x.shape))
    return [x, weight]


def _check_singular(function: str, diagonal: Tensor) -> None:
    if diagonal.device.type == "meta" or torch._C._are_functorch_transforms_active():
        return
    zero = diagonal == 0
    if zero.any():
        channel = int(zero.nonzero()[0])
        raise ValueError(
            f"{function}: weight must be invertible; got a zero on the centre tap's diagonal, of channel {channel}."
        )


__all__ = ["autoregressive_conv", "live_taps"]
