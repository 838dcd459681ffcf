"""Dequantisation: integer levels to continuous values under keyed noise, exactly undone, with exact accounting."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._checks import KERNEL_DTYPES, check, check_floating, check_key, check_noise
from .._library import LIBRARY, Op, define_op, wide_dtype
from ..random import key_from
from . import noise as drawn
from . import reference

INTEGERS = (torch.uint8, torch.int16, torch.int32, torch.int64)
MOST_LEVELS = 65536

_dequantize = define_op(
    "dequantize",
    drawn.dequantize,
    schema="(Tensor x, Tensor key, int levels, float? alpha, float margin, ScalarType dtype, SymInt sample_offset)"
    " -> (Tensor, Tensor)",
)
_quantize = define_op(
    "quantize",
    reference.quantize,
    schema="(Tensor y, int levels, float? alpha, ScalarType dtype) -> Tensor",
    wide=(0,),
)

# Where there is no kernel, compiled code calls the definition as one opaque op: Inductor would inline it for hours.
LIBRARY.impl("dequantize", _dequantize.definition, "CompositeExplicitAutograd")


def dequantize(
    x: Tensor,
    levels: int,
    *,
    alpha: float | None = None,
    key: Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    sample_offset: int = 0,
    dtype: torch.dtype = torch.float32,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    r"""Spreads integer levels over [0, 1) with uniform noise, drawn inside; with ``alpha``, on to logits.

    .. math:: y = \frac{x + u}{L}, \qquad \log\lvert\det J\rvert = -D \ln L

    .. math:: z = \operatorname{logit} p, \quad p = \alpha + (1 - 2 \alpha) y, \qquad
              \log\lvert\det J\rvert = \sum \ln(1 - 2 \alpha) - \ln p - \ln(1 - p) - \ln L

    So a model's log-density of ``y`` (or ``z``) plus ``log_det`` is a lower bound, in expectation over the noise, of
    its log-probability of the integers. Every value stays within its level, in floating point too: ``quantize``
    gives ``x`` back whatever the noise. In float32 logits keep ``4 eps / (1 - 2 alpha)`` from the ends of the level
    for that (6e-5 of a level at 256 levels).

    Args:
        x: integers in ``[0, levels)``, ``[B, *]``: uint8, int16, int32 or int64. Others become NaN: to look for them
            would cost a synchronisation.
        levels: :math:`L`, from 2 to 65536.
        alpha: :math:`\alpha` in ``[0, 0.5)``: 0.05 for natural images, 1e-6 for MNIST (None: no logits).
        key: of the noise, from `genkern.random`; None: one is drawn from ``generator``.
        generator: None: the default generator of the device of ``x``.
        noise: :math:`u` like ``x`` in [0, 1], in place of what would be drawn (learned noise, whose own log-density
            is the caller's to subtract); differentiable in it, in plain PyTorch.
        sample_offset: index of the first sample, where this is a part of a larger batch.
        dtype: of the values; they are computed in float32 or wider and rounded once.
        impl: ``"auto"``, or ``"torch"`` for the definition.

    Returns:
        Values like ``x``, contiguous, and ``log_det`` in nats, ``[B]``, float32 or wider.

    Raises:
        ValueError, TypeError: if an argument cannot be used.

    No derivative by the integers. CPU and CUDA draw the same noise, that of ``genkern.random.uniform(key, x.shape)``.
    Theis et al. 2016 (arXiv:1511.01844), section 3.1; logits of Dinh et al. 2017 (arXiv:1605.08803), section 4.1.

    >>> x = torch.randint(0, 256, (8, 3, 4, 4), dtype=torch.uint8)
    >>> y, log_det = dequantize(x, 256)
    >>> torch.equal(quantize(y, 256), x)
    True
    """
    check(isinstance(x, Tensor), "dequantize", "x", "a tensor", type(x).__name__, TypeError)
    check(x.dtype in INTEGERS, "dequantize", "x", "uint8, int16, int32 or int64", x.dtype, TypeError)
    check(x.dim() >= 1, "dequantize", "x", "[B, *]", x.shape)
    _check_levels("dequantize", levels, alpha)
    check(dtype in KERNEL_DTYPES, "dequantize", "dtype", "float32, float64, bfloat16 or float16", dtype, TypeError)
    check(sample_offset >= 0, "dequantize", "sample_offset", "at least 0", sample_offset)
    margin = 0.0
    if alpha is not None:
        alpha = float(alpha)
        margin = min(4 * torch.finfo(wide_dtype(dtype)).eps / (1 - 2 * alpha), 0.25 / levels)
    if noise is not None:
        check(key is None and generator is None, "dequantize", "noise", "alone, without key or generator", "both")
        check_noise("dequantize", noise, "x", x)
        return reference.dequantize(x, noise, levels, alpha, margin, dtype)
    if key is None:
        key = key_from(generator, device=x.device)
    check_key("dequantize", key, x.device)
    return _call(_dequantize, (x, key), (levels, alpha, margin, dtype, sample_offset), impl)


def quantize(
    y: Tensor,
    levels: int,
    *,
    alpha: float | None = None,
    dtype: torch.dtype | None = None,
    impl: str = "auto",
) -> Tensor:
    r"""The level of each value: undoes `dequantize`, and brings what lies outside to the nearest level.

    .. math:: x = \min(\max(\lfloor L y \rfloor, 0), L - 1)

    with :math:`y = (\sigma(z) - \alpha) / (1 - 2 \alpha)` from logits. Level ``x`` begins at the floating-point
    number nearest to ``x / L``, whatever ``L * y`` rounds to.

    Args:
        y: float64, float32, bfloat16 or float16 of any shape.
        levels, alpha: as for `dequantize`.
        dtype: uint8, int16, int32 or int64; None: uint8 up to 256 levels, else int32.
        impl: ``"auto"``, or ``"torch"`` for the definition.

    Returns:
        Integers like ``y``, contiguous; 0 where ``y`` is NaN.

    Raises:
        ValueError, TypeError: if an argument cannot be used.

    >>> quantize(torch.tensor([-1.0, 0.0, 0.5, 0.999, 2.0]), 4)
    tensor([0, 0, 2, 3, 3], dtype=torch.uint8)
    """
    check_floating("quantize", "y", y)
    _check_levels("quantize", levels, alpha)
    dtype = dtype or (torch.uint8 if levels <= 256 else torch.int32)
    check(dtype in INTEGERS, "quantize", "dtype", "uint8, int16, int32 or int64", dtype, TypeError)
    check(levels - 1 <= torch.iinfo(dtype).max, "quantize", "dtype", f"wide enough for {levels} levels", dtype)
    return _call(_quantize, (y.detach(),), (levels, None if alpha is None else float(alpha), dtype), impl).contiguous()


def logit_transform(y: Tensor, alpha: float = 0.05, *, inverse: bool = False) -> tuple[Tensor, Tensor]:
    r"""The logits that `dequantize` ends with, as a differentiable map of their own (for learned noise).

    .. math:: z = \operatorname{logit} p, \quad p = \alpha + (1 - 2 \alpha) y, \qquad
              \log\lvert\det J\rvert = \sum \ln(1 - 2 \alpha) - \ln p - \ln(1 - p)

    Args:
        y: ``[B, *]`` in [0, 1]; under ``inverse``, logits.
        alpha: in ``[0, 0.5)``; 0 gives infinite logits at 0 and 1.
        inverse: from logits to ``y``; the log-determinant changes sign.

    Returns:
        ``z`` like ``y``, and ``log_det`` in nats, ``[B]``, float32 or wider. Plain PyTorch: all derivatives.

    Raises:
        ValueError, TypeError: if an argument cannot be used.

    >>> z, log_det = logit_transform(torch.full((1, 2), 0.5))
    >>> z
    tensor([[0., 0.]])
    """
    check_floating("logit_transform", "y", y)
    check(y.dim() >= 1, "logit_transform", "y", "[B, *]", y.shape)
    _check_levels("logit_transform", 2, alpha)
    transform = reference.inverse_logit if inverse else reference.logit
    z, term = transform(y.to(wide_dtype(y.dtype)), float(alpha))
    return z.to(y.dtype), term.reshape(y.shape[0], y.shape[1:].numel()).sum(1)


def bits_per_dim(log_prob: Tensor, dims: int) -> Tensor:
    r"""Bits per dimension of a log-probability in nats: :math:`-\log p / (D \ln 2)`.

    For integers under `dequantize` the log-probability is the model's log-density plus ``log_det``; the uniform
    density over :math:`L` levels then has exactly :math:`\log_2 L`.

    Args:
        log_prob: nats, of any shape.
        dims: :math:`D`, the number of dimensions of one sample, as ``x[0].numel()``.

    Returns:
        Bits per dimension, like ``log_prob``.

    Raises:
        ValueError: if ``dims`` is less than 1.

    >>> y, log_det = dequantize(torch.zeros(2, 5, dtype=torch.uint8), 256)
    >>> bits_per_dim(log_det, 5)  # density 1 on the unit cube
    tensor([8., 8.])
    """
    check(dims >= 1, "bits_per_dim", "dims", "at least 1", dims)
    return -log_prob / (dims * math.log(2))


def _call(op: Op, tensors: tuple[Tensor, ...], rest: tuple, impl: str):  # type: ignore[no-untyped-def, type-arg]
    """Runs the op; under `torch.vmap` the definition, which draws lane by lane; compiled always the opaque op."""
    check(impl in ("auto", "torch"), op.name, "impl", "'auto' or 'torch'", repr(impl))
    if torch.compiler.is_compiling() and op is _dequantize:
        return op.overload(*tensors, *rest)
    batched = any(torch._C._functorch.is_batchedtensor(tensor) for tensor in tensors)
    return op(*tensors, *rest, impl="torch" if batched else impl)


def _check_levels(function: str, levels: int, alpha: float | None) -> None:
    fits = isinstance(levels, int) and 2 <= levels <= MOST_LEVELS
    check(fits, function, "levels", f"an int from 2 to {MOST_LEVELS}", levels)
    check(alpha is None or 0 <= alpha < 0.5, function, "alpha", "None or in [0, 0.5)", alpha)


__all__ = ["bits_per_dim", "dequantize", "logit_transform", "quantize"]
