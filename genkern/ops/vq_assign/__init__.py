"""The nearest code of every vector, without the matrix of distances."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .._checks import check, check_choice, check_mask, promote
from .._library import define_op, wide_dtype
from . import reference

METRICS = ("euclidean", "cosine")


class Assignment(NamedTuple):
    """What `vq_assign` found; None where it was not asked for."""

    indices: Tensor
    distance: Tensor | None = None
    second: Tensor | None = None
    second_distance: Tensor | None = None
    counts: Tensor | None = None
    sums: Tensor | None = None


def _fake(
    x: Tensor, codebook: Tensor, mask: Tensor | None, bound: Tensor | None, distance: bool, second: bool,
    statistics: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    groups, outer, features, inner = x.shape
    rows, codes, wide = (groups, outer, inner), codebook.shape[1], wide_dtype(x.dtype)

    def empty(shape: tuple[int, ...], wanted: bool, dtype: torch.dtype) -> Tensor:
        return x.new_empty(shape if wanted else (0,), dtype=dtype)

    return (
        empty(rows, True, torch.int64),
        empty(rows, distance, wide),
        empty(rows, second, torch.int64),
        empty(rows, distance and second, wide),
        empty((groups, codes), statistics, torch.int64),
        empty((groups, codes, features), statistics, torch.float64),
    )


_op = define_op(
    "vq_assign",
    reference.vq_assign,
    schema="(Tensor x, Tensor codebook, Tensor? mask, Tensor? bound, bool distance, bool second, bool statistics)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    wide=range(6),
    fake=_fake,
)


def vq_assign(
    x: Tensor,
    codebook: Tensor,
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    metric: str = "euclidean",
    distance: bool = False,
    second: bool = False,
    statistics: bool = False,
    bound: Tensor | None = None,
    impl: str = "auto",
) -> Assignment:
    r"""Finds the nearest code of every vector, reading vectors and codes once; of equals the lowest.

    .. math:: k(x) = \arg\min_j d(x, c_j), \qquad n_j = \lvert\{x : k(x) = j\}\rvert, \qquad s_j = \sum_{k(x) = j} x

    with :math:`d = \lVert x - c\rVert^2`, or :math:`1 - \cos(x, c)`. The index is that of float64 arithmetic on the
    values given: candidates are compared in float32, about the mean of the codebook, and close calls again in float64.
    Extra memory is that of the outputs and of a copy of the codebook.

    Args:
        x: vectors, with their features in dimension ``dim``: ``[*, D]``, or maps ``[B, D, H, W]`` with ``dim=1``, which
            are read as they lie.
        codebook: ``[K, D]``; or one for each head, ``[heads, K, D]``, and then ``x`` has ``heads * D`` features, those
            of a head side by side.
        dim: of the features in ``x``.
        mask: of the shape of ``x`` without ``dim``; True where there is a vector. Others get index -1 and distance 0,
            and are not counted.
        metric: ``"euclidean"``; or ``"cosine"``, for which vectors and codes are first brought to length 1.
        distance: return the distance, too.
        second: return the second nearest code, too; of near-equals (float32) either may come second.
        statistics: return ``counts`` and ``sums``, too.
        bound: with ``statistics``, an upper bound of the absolute values of ``x`` in all processes, float64 ``[]``
            (None: their largest). Elements are rounded to about ``2^-28 * bound`` and then added exactly, so that sums
            of parts of a batch add up to the same bits as the sum of the whole. Float64 is added as it is.
        impl: ``"auto"``, or ``"torch"`` for the definition.

    Returns:
        An `Assignment`: ``indices`` (int64), ``distance``, ``second`` (int64) and ``second_distance``, of the shape of
        ``x`` without ``dim`` (with heads in a last dimension); ``counts`` (int64, ``[K]`` or ``[heads, K]``) and
        ``sums`` (float64, of the shape of ``codebook``). Distances are float32 or wider.

    Raises:
        ValueError, TypeError: if an argument cannot be used.

    No derivative: differentiate ``(x - codebook[indices]) ** 2``. CPU and CUDA; deterministic.
    van den Oord et al. 2017 (arXiv:1711.00937), eq. 1-2.

    >>> found = vq_assign(torch.tensor([[0.9], [0.1], [0.2]]), torch.tensor([[0.0], [1.0]]), statistics=True)
    >>> found.indices, found.counts
    (tensor([1, 0, 0]), tensor([2, 1]))
    """
    name = "vq_assign"
    x, codebook = (tensor.detach() for tensor in promote(name, x=x, codebook=codebook))
    check(x.dim() >= 1, name, "x", "[*, D]", x.shape)
    check(codebook.dim() in (2, 3), name, "codebook", "[K, D] or [heads, K, D]", codebook.shape)
    check(codebook.shape[-2] >= 1, name, "codebook", "of at least one code", codebook.shape)
    check(codebook.shape[-2] < 2**24, name, "codebook", "of fewer than 2^24 codes", codebook.shape)
    check(-x.dim() <= dim < x.dim(), name, "dim", f"in [{-x.dim()}, {x.dim()})", dim)
    check_choice(name, "metric", metric, METRICS)
    dim, heads, features = dim % x.dim(), codebook.shape[0] if codebook.dim() == 3 else 1, codebook.shape[-1]
    fits = x.shape[dim] == heads * features and features >= 1
    check(
        fits, name, "x", f"of {heads * features} features in dimension {dim}", (x.shape, "codebook is", codebook.shape)
    )
    check(not second or codebook.shape[-2] >= 2, name, "codebook", "of two codes, where second is", codebook.shape)
    places = (*x.shape[:dim], *x.shape[dim + 1 :])
    if mask is not None:
        check_mask(name, mask, places, x.device)
    x = x.unflatten(dim, (heads, features))
    if metric == "cosine":
        wide = wide_dtype(x.dtype)
        x, codebook = normalize(x.to(wide), dim=dim + 1), normalize(codebook.to(wide), dim=-1)
    outer, inner = x.shape[:dim].numel(), x.shape[dim + 2 :].numel()
    # [heads, outer, D, inner], a view wherever the dimensions before and after the features collapse
    vectors = x.reshape(outer, heads, features, inner).transpose(0, 1)
    codes = codebook.view(heads, -1, features)
    keep = None if mask is None else mask.to(torch.uint8).reshape(outer, inner)
    if bound is not None:
        bound = torch.as_tensor(bound, dtype=torch.float64, device=x.device)
        check(bound.dim() == 0, name, "bound", "a number, of shape []", bound.shape)
    raw = _op(vectors, codes, keep, bound, distance, second, statistics, impl=impl)

    def placed(value: Tensor) -> Tensor:  # [heads, outer, inner]
        if codebook.dim() == 2:
            return value.reshape(places)
        return value.movedim(0, -1).reshape(*places, heads)

    scale = 0.5 if metric == "cosine" else 1.0
    shape = codebook.shape
    return Assignment(
        placed(raw[0]),
        placed(raw[1]) * scale if distance else None,
        placed(raw[2]) if second else None,
        placed(raw[3]) * scale if distance and second else None,
        raw[4].reshape(shape[:-1]) if statistics else None,
        raw[5].reshape(shape) if statistics else None,
    )


__all__ = ["Assignment", "vq_assign"]
