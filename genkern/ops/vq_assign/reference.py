"""Vector quantisation in plain PyTorch: the definition that every kernel is compared with."""

from __future__ import annotations

import math

import torch
from torch import Tensor

ELEMENTS = 1 << 22  # of the differences that are in memory at a time


def squared_distances(points: Tensor, codes: Tensor) -> Tensor:
    """Of points ``[N, D]`` and codes ``[K, D]``: ``[N, K]``."""
    return (points[:, None] - codes).square().sum(-1)


def two_nearest(points: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Of equals the lowest first; with one code alone, it comes second too."""
    distances = squared_distances(points, codes)
    first = distances.argmin(1)
    if len(codes) == 1:
        return first, first
    return first, distances.scatter(1, first[:, None], math.inf).argmin(1)


def magic(bound: Tensor) -> Tensor:
    """Added and subtracted in float64, it rounds to multiples of 2^-28 times a power of two above ``bound``."""
    exponent = torch.frexp(bound.double())[1] + 24
    return torch.ldexp(torch.full_like(bound, 1.5, dtype=torch.float64), exponent)


def vq_assign(
    x: Tensor, codebook: Tensor, mask: Tensor | None, bound: Tensor | None, distance: bool, second: bool,
    statistics: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Codes ``[G, O, I]`` of vectors ``[G, O, D, I]`` in codebooks ``[G, K, D]``, in float64; see `genkern.ops`."""
    groups, outer, _, inner = x.shape
    points, codes = x.detach().transpose(2, 3).flatten(1, 2), codebook.detach()  # [G, N, D], [G, K, D]
    keep = torch.ones(outer * inner, dtype=torch.bool, device=x.device) if mask is None else mask.flatten().bool()
    step = max(1, ELEMENTS // max(codes[0].numel(), 1))
    found = [
        [two_nearest(part, c) for part in p.split(step)]
        for p, c in zip(points.double(), codes.double(), strict=True)
    ]  # fmt: skip
    index, next_index = (torch.stack([torch.cat([pair[i] for pair in parts]) for parts in found]) for i in (0, 1))
    outputs = []
    for nearest, wanted in ((index, True), (next_index, second)):
        code = torch.stack([c[i] for c, i in zip(codes, nearest, strict=True)])
        apart = (points.double() - code.double()).square().sum(-1).masked_fill(~keep, 0).to(x.dtype)
        outputs.append(nearest.masked_fill(~keep, -1).view(groups, outer, inner) if wanted else index.new_zeros(0))
        outputs.append(apart.view(groups, outer, inner) if wanted and distance else x.new_zeros(0))
    counts, sums = index.new_zeros(0), x.new_zeros(0, dtype=torch.float64)
    if statistics:
        kept = points[:, keep]
        if x.dtype != torch.float64:
            largest = kept.abs().amax() if kept.numel() else x.new_zeros(())
            unit = magic(largest if bound is None else bound)
            kept = (kept.double() + unit) - unit  # float64 sums of these are exact, in any order
        counts = index.new_zeros(codes.shape[:2]).scatter_add_(1, index[:, keep], torch.ones_like(index[:, keep]))
        sums = torch.zeros(codes.shape, dtype=torch.float64, device=x.device)
        sums = torch.stack([total.index_add(0, i, k) for total, i, k in zip(sums, index[:, keep], kept, strict=True)])
    return outputs[0], outputs[1], outputs[2], outputs[3], counts, sums
