"""Log-determinants and inverses of all the small matrices of a model, each in one call."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ... import ops
from .flow import Inverses


def log_abs_dets(weights: Sequence[Tensor]) -> Sequence[Tensor]:
    """``log|det W|`` of each weight; one call for the whole model."""
    return list(ops.log_abs_det(weights)) if weights else []


def inverses(matrices: Sequence[Tensor]) -> Inverses:
    """``(W⁻¹, log|det W|)`` of each matrix; one call for the whole model."""
    if not matrices:
        return []
    inverted, dets = ops.inverse_and_log_abs_det(matrices)
    return list(zip(inverted, dets, strict=True))


class InverseCache:
    """`inverses`, computed again only when a matrix has changed.

    A copy of each matrix is compared value for value, because version counters miss edits through ``.data`` and
    replayed graphs. Where that comparison would wait for a GPU, or gradients are wanted, or in a compiled region,
    nothing is cached: the inversion is one launch.
    """

    def __init__(self) -> None:
        self.seen: list[Tensor] = []
        self.kept: Inverses = []

    def __call__(self, matrices: Sequence[Tensor]) -> Inverses:
        if torch.compiler.is_compiling() or any(m.requires_grad or m.device.type != "cpu" for m in matrices):
            return inverses(matrices)
        if len(self.seen) != len(matrices) or not all(map(_same, self.seen, matrices)):
            self.kept = inverses(matrices)
            self.seen = [matrix.clone() for matrix in matrices]
        return self.kept

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return InverseCache, ()  # copies and pickles of a model start empty


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.device == b.device and torch.equal(a, b)
