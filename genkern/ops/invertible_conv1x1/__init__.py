"""Invertible 1x1 convolution, and the determinants and inverses of all weights of a model in one call."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d, linear

from .._checks import check, promote
from .._library import define_op, wide_dtype
from . import matrices, reference
from .autograd import full_precision
from .matrices import inverse, inverse_and_log_abs_det, log_abs_det
from .weights import fold_actnorm, folded_weight

LARGEST = 128  # channels, beyond which a convolution is the faster product: as fast forward, and faster backward

_op = define_op(
    "invertible_conv1x1",
    reference.mix,
    schema="(Tensor x, Tensor weight, Tensor bias, Tensor log_abs_det) -> (Tensor, Tensor)",
    differentiable=("x", "weight", "bias", "log_abs_det"),
    wide=(1,),
    selective=True,
)


def invertible_conv1x1(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    log_abs_det: Tensor | None = None,
    inverse: bool = False,
    check_singular: bool = True,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    r"""Mixes the channels of every pixel by one square matrix: a permutation of channels that learns.

    .. math:: y_{\cdot p} = W x_{\cdot p} + b, \qquad \log\lvert\det J\rvert = N \ln\lvert\det W\rvert

    for the ``N`` spatial positions ``p``. A model that has many such layers computes all their determinants in one
    call of `log_abs_det` and passes each its own; `fold_actnorm` gives the weight and bias that include an
    activation normalisation.

    Args:
        x: ``[B, C, *]`` with any number of spatial dimensions, also none.
        weight: ``W``, ``[C, C]``.
        bias: ``b``, ``[C]``, or None.
        log_abs_det: ``ln |det W|``, one element, if known; otherwise it is computed here.
        inverse: solve for ``x`` instead; the log-determinant changes sign.
        check_singular: with ``inverse``, raise if ``W`` is singular. On a GPU the check waits for the device; without
            it, and under `torch.compile` and `torch.func`, a singular weight gives NaN.
        impl: ``"auto"``, or ``"torch"`` for the definition.

    Returns:
        ``y`` like ``x``, and ``log_det`` in nats, ``[B]``, float32 or wider; ``-inf`` where ``W`` is singular.

    Raises:
        ValueError: if shapes or devices do not fit, or a singular weight is to be inverted.
        TypeError: if a dtype is not float64, float32, bfloat16 or float16.

    First and second derivatives in ``x``, ``weight``, ``bias`` and ``log_abs_det``; that of the log-determinant is
    ``N W^-T``, and zero where ``W`` is singular. CPU and CUDA. Dtypes are promoted as in PyTorch, and kept under
    autocast, which would spoil the inverse; LU and inverse are computed in float64 on CPU and CUDA whatever the dtype.
    Kingma & Dhariwal 2018 (arXiv:1807.03039), section 3.2.

    >>> y, log_det = invertible_conv1x1(torch.randn(8, 6, 4, 4), 2 * torch.eye(6))
    >>> log_det.shape, round(log_det[0].item() / (16 * 6), 4)
    (torch.Size([8]), 0.6931)
    """
    x, weight, bias = _check(x, weight, bias, log_abs_det)
    check(impl in ("auto", "torch"), "invertible_conv1x1", "impl", "'auto' or 'torch'", repr(impl))
    wide = wide_dtype(x.dtype)
    if inverse:
        inverted, computed = matrices.invert("invertible_conv1x1", weight.to(wide), check_singular, impl)
    elif log_abs_det is None:
        computed = matrices.log_abs_det(weight, impl=impl)
    value = (computed if log_abs_det is None else log_abs_det).to(wide)
    value = value if value.dim() <= 1 else value.reshape(1)
    if impl == "torch":
        given = (x, weight) if bias is None else (x, weight, bias)
        with full_precision(x):
            y, _ = reference.invertible_conv1x1(*(t.to(wide) for t in given), inverse=inverse)
        return y.to(x.dtype), _volume(x, -value if inverse else value)
    if not inverse:
        return _mix(x, weight, bias, value)
    # in float32 or wider: a rounded inverse is the inverse of something else
    y, log_det = _mix(x.to(wide), inverted, None if bias is None else -(inverted * bias).sum(1), -value)
    return y.to(x.dtype), log_det


def _check(
    x: Tensor, weight: Tensor, bias: Tensor | None, log_abs_det: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    function = "invertible_conv1x1"
    tensors = {"x": x, "weight": weight} | ({} if bias is None else {"bias": bias})
    promoted = promote(function, **tensors)
    check(x.dim() >= 2, function, "x", "[B, C, *]", x.shape)
    channels = x.shape[1]
    fits = channels > 0 and weight.shape == (channels, channels)
    check(fits, function, "weight", "[C, C]", (weight.shape, "x is", x.shape))
    if bias is not None:
        check(bias.shape == (channels,), function, "bias", "[C]", (bias.shape, "x is", x.shape))
    if log_abs_det is not None:
        check(log_abs_det.numel() == 1, function, "log_abs_det", "one element", log_abs_det.shape)
    return promoted[0], promoted[1], None if bias is None else promoted[2]


def _mix(x: Tensor, weight: Tensor, bias: Tensor | None, log_abs_det: Tensor) -> tuple[Tensor, Tensor]:
    if _pixels_are_vectors(x):
        return _op(x, weight, weight.new_zeros(len(weight)) if bias is None else bias, log_abs_det)
    with full_precision(x):
        return _product(x, weight, bias), _volume(x, log_abs_det)


def _pixels_are_vectors(x: Tensor) -> bool:
    """Whether the kernel is the faster product: pixels follow one another, and a CPU has them."""
    if x.device.type == "cuda" or x.device.type not in _op.kernels or x.dim() < 3:
        return False
    return x.shape[1] <= LARGEST and (x.stride(1) != 1 or x.shape[1] == 1)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``W x + b`` over the channels by a library's product, in the order in which ``x`` lies in memory."""
    if x.dim() == 2:
        return linear(x, weight, bias)
    pictures = x.dim() == 4 and x.numel() > 0 and x.is_contiguous()
    if pictures and x.shape[1] > LARGEST and x.device.type == "cpu" and x.dtype == torch.float32:
        return conv2d(x, weight[:, :, None, None], bias)
    columns = x.flatten(2)  # [B, C, N]
    batch, channels, positions = columns.shape
    # A batched product needs a [B, C, C] gradient before it is summed, which must not dwarf x.
    if columns.stride(1) == 1 or channels > 4 * positions:
        y = linear(columns.mT, weight, bias).mT
    elif bias is None:
        y = torch.bmm(weight.expand(batch, channels, channels), columns)
    else:
        y = torch.baddbmm(bias[:, None], weight.expand(batch, channels, channels), columns)
    return y.unflatten(2, x.shape[2:])


def _volume(x: Tensor, log_abs_det: Tensor) -> Tensor:
    return (x.shape[2:].numel() * log_abs_det).repeat(x.shape[0])


__all__ = [
    "fold_actnorm",
    "folded_weight",
    "inverse",
    "inverse_and_log_abs_det",
    "invertible_conv1x1",
    "log_abs_det",
]
