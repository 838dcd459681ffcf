"""Simplex noise: smooth random fields, the corruption of AnoDDPM, for whole batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._checks import check
from .._library import define_op
from . import reference

_op = define_op(
    "simplex_noise",
    reference.simplex_noise,
    schema="(Tensor seeds, Tensor? t, SymInt height, SymInt width, int octaves, float persistence, float frequency,"
    " ScalarType dtype) -> Tensor",
    fake=lambda seeds, t, height, width, octaves, persistence, frequency, dtype: seeds.new_empty(
        (seeds.shape[0], height, width), dtype=dtype
    ),
)


def simplex_noise(
    seeds: Tensor | Sequence[int],
    size: tuple[int, int],
    *,
    t: Tensor | None = None,
    octaves: int = 6,
    persistence: float = 0.8,
    frequency: float = 64.0,
    normalize: bool = False,
    dtype: torch.dtype = torch.float32,
    impl: str = "auto",
) -> Tensor:
    r"""Fields of OpenSimplex noise (2014), one for each seed, summed over octaves.

    .. math:: F(x, y) = \sum_{k < K} p^k\, S\!\left(\frac{x}{f_k}, \frac{y}{f_k} \Big[, \frac{t}{f_k} \Big]\right),
              \qquad f_k = f / 2^k

    The permutation of a seed, and in three dimensions the choice of lattice points, are those of the ``opensimplex``
    package, so that fields agree with its ``noise2array`` and ``noise3array``.

    Args:
        seeds: ``[B]``, int64, as from ``genkern.random.split(key, B)``; or a sequence of ints or a NumPy array.
        size: height and width.
        t: a third coordinate for each sample, ``[B]``: its field is then a slice of three-dimensional noise; None: two
            dimensions. A volume is a slice for each t, under one seed.
        octaves, persistence, frequency: :math:`K`, :math:`p`, and :math:`f` in pixels; the defaults are AnoDDPM's.
        normalize: bring every field to mean 0 and variance 1 over its pixels; raw fields of six octaves have
            a standard deviation of about 0.5, and means of their own.
        dtype: of the result, which is computed in float32 (float64 for float64) from coordinates in float64.
        impl: ``"auto"``, or ``"torch"`` for the definition, in float64.

    Returns:
        ``[B, height, width]``, on the device of ``seeds``; the same bits with every instruction set of a CPU.

    Raises:
        ValueError, TypeError: if an argument cannot be used.

    No derivative. CPU and CUDA. Wyatt et al. 2022 (AnoDDPM), section 3.2.

    >>> field = simplex_noise([0, 1, 2], (32, 48), normalize=True)
    >>> field.shape, bool((field.mean((1, 2)).abs() < 1e-5).all())
    (torch.Size([3, 32, 48]), True)
    """
    function = "simplex_noise"
    seeds = _as_tensor(seeds)
    check(seeds.dtype == torch.int64, function, "seeds", "int64", seeds.dtype, TypeError)
    check(seeds.dim() == 1, function, "seeds", "[B]", seeds.shape)
    pair = isinstance(size, tuple | list) and len(size) == 2
    check(pair, function, "size", "a height and a width", size)
    height, width = size
    check(height >= 0 and width >= 0, function, "size", "a height and a width", size)
    check(isinstance(octaves, int) and octaves >= 1, function, "octaves", "an int, at least 1", octaves)
    check(frequency > 0, function, "frequency", "positive", frequency)
    check(dtype.is_floating_point, function, "dtype", "floating", dtype, TypeError)
    if t is not None:
        check(isinstance(t, Tensor), function, "t", "a tensor", type(t).__name__, TypeError)
        check(not t.is_complex(), function, "t", "real", t.dtype, TypeError)
        check(t.shape == seeds.shape, function, "t", f"[B] = {list(seeds.shape)}", t.shape)
        check(t.device == seeds.device, function, "t", f"on {seeds.device}", t.device)
        t = t.detach().to(torch.float64)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    field = _op(seeds, t, height, width, octaves, float(persistence), float(frequency), wide, impl=impl)
    if normalize and field.numel():
        centred = field - field.mean((1, 2), keepdim=True)
        field = centred / centred.square().mean((1, 2), keepdim=True).sqrt().clamp(min=1e-12)
    return field.to(dtype)


def _as_tensor(seeds: Tensor | Sequence[int]) -> Tensor:
    try:
        return torch.as_tensor(seeds)
    except (RuntimeError, TypeError, ValueError):
        raise TypeError(f"simplex_noise: seeds must be int64 numbers; got {type(seeds).__name__}.") from None


__all__ = ["simplex_noise"]
