"""Invertible 1x1 convolution, and the determinants and inverses of all its small weights in one call."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear

from .._checks import check, promote
from .._library import wide_dtype
from . import reference
from .autograd import lu_inverse
from .weights import check_square, fold_actnorm, plu_factors, plu_weight

Matrices = Tensor | Sequence[Tensor]


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
            it, and under `torch.compile`, a singular weight gives NaN.
        impl: ``"auto"``, or ``"torch"`` for the definition.

    Returns:
        ``y`` like ``x``, and ``log_det`` in nats, ``[B]``, float32 or wider; ``-inf`` where ``W`` is singular.

    Raises:
        ValueError: if shapes or devices do not fit, or a singular weight is to be inverted.
        TypeError: if a dtype is not float64, float32, bfloat16 or float16.

    First and second derivatives in ``x``, ``weight``, ``bias`` and ``log_abs_det``; that of the log-determinant is
    ``N W^-T``, and zero where ``W`` is singular. CPU and CUDA. Dtypes are promoted as in PyTorch; LU and inverse are
    computed in float64 on CPU and CUDA whatever the dtype. Kingma & Dhariwal 2018 (arXiv:1807.03039), section 3.2.

    >>> y, log_det = invertible_conv1x1(torch.randn(8, 6, 4, 4), 2 * torch.eye(6))
    >>> log_det.shape, round(log_det[0].item() / (16 * 6), 4)
    (torch.Size([8]), 0.6931)
    """
    x, weight, bias = _check(x, weight, bias, log_abs_det)
    if impl == "torch" and log_abs_det is None:
        return reference.invertible_conv1x1(x, weight, bias, inverse)
    exact = weight.to(torch.promote_types(weight.dtype, wide_dtype(x.dtype)))
    if inverse:
        exact, computed = _invert("invertible_conv1x1", exact[None], check_singular, impl)
        exact, bias = exact[0], None if bias is None else -(exact[0] * bias).sum(1)
        weight = exact.to(weight.dtype)
    elif log_abs_det is None:
        computed = _log_abs_det(exact[None], impl)
    value = (computed if log_abs_det is None else log_abs_det).reshape(()).to(exact.dtype)
    positions = x.shape[2:].numel()
    log_det = (-positions if inverse else positions) * value
    return _mix(x, weight, bias), log_det.repeat(x.shape[0])


def log_abs_det(weights: Matrices, *, impl: str = "auto") -> Tensor:
    r"""``ln |det W|`` of every weight of a model in one native call.

    Args:
        weights: one square matrix ``[C, C]``, a stack ``[M, C, C]``, or a sequence of matrices of any sizes.
        impl: ``"auto"``, or ``"torch"`` for the definition.

    Returns:
        ``[M]``, float32 or wider; ``-inf`` for a singular matrix. ``[1]`` for one matrix.

    Raises:
        ValueError, TypeError: if a matrix is not square, or devices or dtypes do not fit.

    The gradient is ``W^-T`` (zero for a singular matrix), from the inverse that the same elimination yields;
    twice differentiable, also in forward mode. Computed in float64 on CPU and CUDA; on CUDA one launch without a
    host sync.

    >>> log_abs_det([torch.eye(3), 2 * torch.eye(12), torch.zeros(2, 2)])
    tensor([0.0000, 8.3178,   -inf])
    """
    matrices, sizes = _flatten("log_abs_det", weights)
    return lu_inverse(matrices, sizes, _needs_inverse(matrices), impl)[0]


def inverse(weights: Matrices, *, check_singular: bool = True, impl: str = "auto") -> Tensor | list[Tensor]:
    """``W^-1`` of every weight of a model in one native call; see `inverse_and_log_abs_det`.

    >>> inverse([torch.eye(2), 4 * torch.eye(1)])[1]
    tensor([[0.2500]])
    """
    return inverse_and_log_abs_det(weights, check_singular=check_singular, impl=impl)[0]


def inverse_and_log_abs_det(
    weights: Matrices, *, check_singular: bool = True, impl: str = "auto"
) -> tuple[Tensor | list[Tensor], Tensor]:
    """``W^-1`` and ``ln |det W|`` of every weight of a model in one native call, as sampling wants them.

    Args:
        weights: one square matrix ``[C, C]``, a stack ``[M, C, C]``, or a sequence of matrices of any sizes.
        check_singular: raise if a matrix is singular. On a GPU the check waits for the device; without it, and under
            `torch.compile`, the inverse of a singular matrix is NaN.
        impl: ``"auto"``, or ``"torch"`` for the definition.

    Returns:
        The inverses in the form of ``weights`` (a list for a sequence) and dtype, and the log-determinants ``[M]``.

    Raises:
        ValueError: naming the first singular matrix; or if a matrix is not square or devices do not fit.
        TypeError: if a dtype is not float64, float32, bfloat16 or float16.

    Twice differentiable, also in forward mode. Computed in float64 on CPU and CUDA.

    >>> inverses, log_abs_dets = inverse_and_log_abs_det(2 * torch.eye(3).expand(5, 3, 3))
    >>> inverses.shape, log_abs_dets.shape
    (torch.Size([5, 3, 3]), torch.Size([5]))
    """
    return _invert("inverse", weights, check_singular, impl)


def _invert(
    function: str, weights: Matrices, check_singular: bool, impl: str
) -> tuple[Tensor | list[Tensor], Tensor]:
    matrices, sizes = _flatten(function, weights)
    log_abs_dets, _, inverses = lu_inverse(matrices, sizes, True, impl)
    if check_singular and not torch.compiler.is_compiling() and matrices.device.type != "meta":
        _check_singular(function, log_abs_dets.detach(), sizes)
    if isinstance(weights, Tensor):
        return inverses.view(weights.shape).to(weights.dtype), log_abs_dets
    pieces = inverses.split([size * size for size in sizes]) if sizes else []
    shaped = [piece.view(w.shape).to(w.dtype) for piece, w in zip(pieces, weights, strict=True)]
    return shaped, log_abs_dets


def _log_abs_det(stack: Tensor, impl: str) -> Tensor:
    return log_abs_det(stack, impl=impl)


def _check_singular(function: str, log_abs_dets: Tensor, sizes: list[int]) -> None:
    singular = log_abs_dets == -torch.inf
    if singular.any():
        m = int(singular.nonzero()[0])
        name = "weight" if len(sizes) == 1 else f"weights[{m}]"
        raise ValueError(f"{function}: {name} must be invertible; got a singular [{sizes[m]}, {sizes[m]}].")


def _needs_inverse(matrices: Tensor) -> bool:
    return torch.is_grad_enabled() and matrices.requires_grad


def _flatten(function: str, weights: Matrices) -> tuple[Tensor, list[int]]:
    """All matrices one after the other in float32 or wider, and their sizes."""
    if isinstance(weights, Tensor):
        (weights,) = promote(function, weights=weights)
        fits = weights.dim() in (2, 3)
        check(fits, function, "weights", "[C, C] or [M, C, C]", list(weights.shape))
        check_square(function, "weights", weights)
        sizes = [weights.shape[-1]] * (len(weights) if weights.dim() == 3 else 1)
        return weights.to(wide_dtype(weights.dtype)).reshape(-1), sizes
    fits = isinstance(weights, Sequence) and all(isinstance(w, Tensor) for w in weights)
    check(fits, function, "weights", "a tensor or a sequence of tensors", type(weights).__name__, TypeError)
    named = {f"weights[{m}]": w for m, w in enumerate(weights)}
    for name, w in named.items():
        check(w.dim() == 2, function, name, "[C, C]", list(w.shape))
        check_square(function, name, w)
    matrices = promote(function, **named) if named else []
    if not matrices:
        return torch.empty(0), []
    wide = wide_dtype(matrices[0].dtype)
    return torch.cat([w.to(wide).reshape(-1) for w in matrices]), [len(w) for w in matrices]


def _check(
    x: Tensor, weight: Tensor, bias: Tensor | None, log_abs_det: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    function = "invertible_conv1x1"
    tensors = {"x": x, "weight": weight} | ({} if bias is None else {"bias": bias})
    promoted = promote(function, **tensors)
    check(x.dim() >= 2, function, "x", "[B, C, *]", list(x.shape))
    channels = x.shape[1]
    came = f"{list(weight.shape)} (x is {list(x.shape)})"
    check(channels > 0 and weight.shape == (channels, channels), function, "weight", f"[{channels}, {channels}]", came)
    if bias is not None:
        check(bias.shape == (channels,), function, "bias", f"[{channels}]", list(bias.shape))
    if log_abs_det is not None:
        check(log_abs_det.numel() == 1, function, "log_abs_det", "one element", list(log_abs_det.shape))
    autocast = torch.is_autocast_enabled(x.device.type) and torch.float64 not in {t.dtype for t in tensors.values()}
    if autocast:  # the products cast their own arguments
        return x, weight, bias
    return promoted[0], promoted[1], None if bias is None else promoted[2]


def _mix(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``W x + b`` over the channels, as one matrix product in the order in which ``x`` lies in memory.

    Measured on CPU at (64, 48, 16, 16): two thirds of the time of `torch.conv2d`, less where C is small.
    """
    if x.dim() == 2:
        return linear(x, weight, bias)
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


__all__ = [
    "fold_actnorm",
    "inverse",
    "inverse_and_log_abs_det",
    "invertible_conv1x1",
    "log_abs_det",
    "plu_factors",
    "plu_weight",
]
