"""Vector quantisation on GPUs: scores by tensor cores, compared as they come; close calls again in float64."""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import _triton
from .._triton import AheadOfTime
from . import reference

ROWS, CODES, FEATURES = 64, 64, 32  # of a tile
NOWHERE = tl.constexpr(1 << 30)


@triton.jit
def _best_two(score, k, exists, best, at, after, after_at):
    """The largest two of scores [R, K] and of those so far, all of lower codes; of equals the lowest code."""
    score = tl.where(exists & (score == score), score, float("-inf"))
    first = tl.max(score, axis=1)
    first_at = tl.min(tl.where(score == first[:, None], k, NOWHERE), axis=1)
    rest = tl.where(k == first_at[:, None], float("-inf"), score)
    second = tl.max(rest, axis=1)
    second_at = tl.min(tl.where((rest == second[:, None]) & (k != first_at[:, None]), k, NOWHERE), axis=1)
    wins = first > best
    follower, follower_at = tl.where(wins, best, after), tl.where(wins, at, after_at)
    rival, rival_at = tl.where(wins, second, first), tl.where(wins, second_at, first_at)
    after_at = tl.where(rival > follower, rival_at, follower_at)
    after = tl.maximum(rival, follower)
    return tl.where(wins, first, best), tl.where(wins, first_at, at), after, after_at


@triton.jit
def _rows(row, group, rows, inner, xg, xo, xi):
    """Offsets of vectors, int64."""
    return group * xg + row // inner * xo + row % inner * xi


# one program: R rows of a group x all codes, C at a time
@triton.jit
def _scores(x, codes, start, mean, radius, index, second, close, rows, inner, count, features, rounding, xg, xo, xd, xi,
            SECOND: tl.constexpr, R: tl.constexpr, C: tl.constexpr, F: tl.constexpr):  # fmt: skip
    group = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    at_x = _rows(row, group, rows, inner, xg, xo, xi)[:, None]
    norm = tl.zeros([R], tl.float32)
    for d0 in range(0, features, F):
        d = d0 + tl.arange(0, F)
        value = tl.load(
            x + at_x + d[None, :].to(tl.int64) * xd, (row < rows)[:, None] & (d < features)[None, :], other=0
        )
        value = value.to(tl.float32) - tl.load(mean + group * features + d, d < features, other=0)[None, :]
        norm += tl.sum(value * value, axis=1)
    best, at = tl.full([R], float("-inf"), tl.float32), tl.zeros([R], tl.int32)
    after, after_at = tl.full([R], float("-inf"), tl.float32), tl.zeros([R], tl.int32)
    for k0 in range(0, count, C):
        k = k0 + tl.arange(0, C)
        score = tl.zeros([R, C], tl.float32)
        for d0 in range(0, features, F):
            d = d0 + tl.arange(0, F)
            keep = (row < rows)[:, None] & (d < features)[None, :]
            value = tl.load(x + at_x + d[None, :].to(tl.int64) * xd, keep, other=0).to(tl.float32)
            value -= tl.load(mean + group * features + d, d < features, other=0)[None, :]
            at_c = (group * count + k[None, :].to(tl.int64)) * features + d[:, None]
            code = tl.load(codes + at_c, (d < features)[:, None] & (k < count)[None, :], other=0)
            score = tl.dot(value, code, score, input_precision="tf32x3")
        score += tl.load(start + group * count + k, k < count, other=0)[None, :]
        best, at, after, after_at = _best_two(score, k[None, :], (k < count)[None, :], best, at, after, after_at)
    reach = tl.load(radius + group)
    error = rounding * reach * (tl.sqrt(norm) + 0.5 * reach)
    sure = (best - after > error) | (count == 1)
    out = group * rows + row
    tl.store(index + out, at.to(tl.int64), row < rows)
    if SECOND:
        tl.store(second + out, after_at.to(tl.int64), row < rows)
    tl.store(close + out, tl.where(sure, 0, 1).to(tl.int8), row < rows)


# one program: a row whose call is close x all codes, C at a time, in float64
@triton.jit
def _settle(x, codebook, index, second, close, rows, inner, count, features, xg, xo, xd, xi, SECOND: tl.constexpr,
            C: tl.constexpr, F: tl.constexpr):  # fmt: skip
    group, row = tl.program_id(1).to(tl.int64), tl.program_id(0).to(tl.int64)
    out = group * rows + row
    if tl.load(close + out) != 0:
        at_x = _rows(row, group, rows, inner, xg, xo, xi)
        best, at = tl.full([1], float("-inf"), tl.float64), tl.zeros([1], tl.int32)
        after, after_at = tl.full([1], float("-inf"), tl.float64), tl.zeros([1], tl.int32)
        for k0 in range(0, count, C):
            k = k0 + tl.arange(0, C)
            total = tl.zeros([C], tl.float64)
            for d0 in range(0, features, F):
                d = d0 + tl.arange(0, F)
                value = tl.load(x + at_x + d.to(tl.int64) * xd, d < features, other=0).to(tl.float64)
                at_c = (group * count + k[:, None].to(tl.int64)) * features + d[None, :]
                code = tl.load(codebook + at_c, (k < count)[:, None] & (d < features)[None, :], other=0).to(tl.float64)
                apart = tl.where((d < features)[None, :], value[None, :] - code, 0.0)
                total += tl.sum(apart * apart, axis=1)
            exists = (k < count)[None, :]
            best, at, after, after_at = _best_two(-total[None, :], k[None, :], exists, best, at, after, after_at)
        tl.store(index + out + tl.arange(0, 1), tl.minimum(at, count - 1).to(tl.int64))
        if SECOND:
            tl.store(second + out + tl.arange(0, 1), tl.minimum(after_at, count - 1).to(tl.int64))


# one program: the squared distances of R rows from their codes
@triton.jit
def _distances(x, codebook, index, distance, rows, inner, count, features, xg, xo, xd, xi, R: tl.constexpr,
               F: tl.constexpr):  # fmt: skip
    group = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    at_x = _rows(row, group, rows, inner, xg, xo, xi)[:, None]
    k = tl.load(index + group * rows + row, row < rows, other=0)
    total = tl.zeros([R], tl.float64)
    for d0 in range(0, features, F):
        d = d0 + tl.arange(0, F)
        keep = (row < rows)[:, None] & (d < features)[None, :]
        value = tl.load(x + at_x + d[None, :].to(tl.int64) * xd, keep, other=0).to(tl.float64)
        code = tl.load(codebook + (group * count + k[:, None]) * features + d[None, :], keep, other=0).to(tl.float64)
        total += tl.sum((value - code) * (value - code), axis=1)
    tl.store(distance + group * rows + row, total.to(distance.dtype.element_ty), row < rows)


# one program: the sum of all rows of a code, in their order, for F features
@triton.jit
def _sums(x, order, starts, magic, sums, rows, inner, count, features, xg, xo, xd, xi, ROUND: tl.constexpr,
          R: tl.constexpr, F: tl.constexpr):  # fmt: skip
    k, group = tl.program_id(0).to(tl.int64), tl.program_id(2).to(tl.int64)
    d = tl.program_id(1) * F + tl.arange(0, F)
    unit = tl.load(magic)
    first = tl.load(starts + group * (count + 1) + k)
    last = tl.load(starts + group * (count + 1) + k + 1)
    total = tl.zeros([F], tl.float64)
    while first < last:
        place = first + tl.arange(0, R)
        row = tl.load(order + group * rows + place, place < last, other=0)
        keep = (place < last)[:, None] & (d < features)[None, :]
        at_x = _rows(row, group, rows, inner, xg, xo, xi)[:, None]
        value = tl.load(x + at_x + d[None, :].to(tl.int64) * xd, keep, other=0).to(tl.float64)
        if ROUND:
            value = (value + unit) - unit
        total += tl.sum(tl.where(keep, value, 0.0), axis=0)
        first += R
    tl.store(sums + (group * count + k) * features + d, total, d < features)


def vq_assign(
    x: Tensor, codebook: Tensor, mask: Tensor | None, bound: Tensor | None, distance: bool, second: bool,
    statistics: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    groups, outer, features, inner = x.shape
    count, rows, wide = codebook.shape[1], outer * inner, _triton.wide(x)
    codebook = codebook.to(wide).contiguous()
    index = x.new_zeros(groups, rows, dtype=torch.int64)
    following = x.new_zeros(groups, rows if second else 0, dtype=torch.int64)
    xg, xo, xd, xi = x.stride()
    if rows:
        close = torch.ones(groups, rows, dtype=torch.int8, device=x.device)
        if wide == torch.float32:
            mean = codebook.double().mean(1).float()
            centred = codebook - mean[:, None]
            squares = centred.double().square().sum(-1)  # [G, K]
            rounding = (min(features, 6 * math.sqrt(features)) + 8) * 2.0**-22
            _scores[(triton.cdiv(rows, ROWS), groups)](
                x, centred, (-0.5 * squares).float(), mean, squares.amax(1).sqrt().float(), index, following, close,
                rows, inner, count, features, rounding, xg, xo, xd, xi, SECOND=second, R=ROWS, C=CODES, F=FEATURES,
            )  # fmt: skip
        _settle[(rows, groups)](
            x, codebook, index, following, close, rows, inner, count, features, xg, xo, xd, xi, SECOND=second, C=CODES,
            F=FEATURES,
        )  # fmt: skip
    keep = None if mask is None else mask.reshape(rows).bool()
    apart = []
    for wanted, found in ((distance, index), (distance and second, following)):
        value = x.new_empty(groups, rows if wanted else 0, dtype=wide)
        if wanted and rows:
            _distances[(triton.cdiv(rows, ROWS), groups)](
                x, codebook, found, value, rows, inner, count, features, xg, xo, xd, xi, R=ROWS, F=FEATURES,
            )  # fmt: skip
            value = value if keep is None else value.masked_fill(~keep, 0)
        apart.append(value)
    if keep is not None:
        index = index.masked_fill(~keep, -1)
        following = following.masked_fill(~keep, -1) if second else following
    counts, sums = index.new_zeros(0), x.new_zeros(0, dtype=torch.float64)
    if statistics:
        counts, sums = _statistics(x, index, keep, bound, count)

    def placed(value: Tensor, wanted: bool) -> Tensor:
        return value.view(groups, outer, inner) if wanted else value.new_zeros(0)

    return (
        placed(index, True), placed(apart[0], distance), placed(following, second),
        placed(apart[1], distance and second), counts, sums,
    )  # fmt: skip


def _statistics(
    x: Tensor, index: Tensor, keep: Tensor | None, bound: Tensor | None, count: int
) -> tuple[Tensor, Tensor]:
    """Counts and sums of rows sorted by their codes: no atomics, and every order of adding gives the same bits."""
    groups, outer, features, inner = x.shape
    ordered, order = index.sort(dim=1, stable=True)
    numbers = torch.arange(count + 1, device=x.device).expand(groups, -1).contiguous()
    starts = torch.searchsorted(ordered, numbers)
    counts = starts.diff(dim=1)
    sums = x.new_zeros(groups, count, features, dtype=torch.float64)
    magic = x.new_zeros((), dtype=torch.float64)
    if index.numel():
        is_rounded = x.dtype != torch.float64
        if is_rounded:
            if bound is None:
                valid = x if keep is None else x.where(keep.view(1, outer, 1, inner), 0)
                bound = torch.stack(torch.aminmax(valid)).abs().amax()
            magic = reference.magic(bound)
        _sums[(count, triton.cdiv(features, FEATURES), groups)](
            x, order, starts, magic, sums, outer * inner, inner, count, features, *x.stride(), ROUND=is_rounded, R=16,
            F=FEATURES,
        )  # fmt: skip
    return counts, sums


def _ahead_of_time(kernel: Any, x: str = "*fp32", **constants: Any) -> AheadOfTime:
    wide = "*fp64" if x == "*fp64" else "*fp32"
    types = {"x": x, "codes": wide, "codebook": wide, "start": wide, "mean": wide, "radius": wide, "index": "*i64",
             "second": "*i64", "close": "*i8", "distance": wide, "order": "*i64", "starts": "*i64", "magic": "*fp64",
             "sums": "*fp64", "rounding": "fp32", "count": "i32", "features": "i32"}  # fmt: skip
    signature = {name: types.get(name, "i64") for name in kernel.arg_names if name not in constants}
    return AheadOfTime(kernel, signature, constants)


AHEAD_OF_TIME = [
    _ahead_of_time(_scores, SECOND=True, R=ROWS, C=CODES, F=FEATURES),
    _ahead_of_time(_scores, "*bf16", SECOND=False, R=ROWS, C=CODES, F=FEATURES),
    _ahead_of_time(_settle, SECOND=True, C=CODES, F=FEATURES),
    _ahead_of_time(_settle, "*fp64", SECOND=False, C=CODES, F=FEATURES),
    _ahead_of_time(_distances, R=ROWS, F=FEATURES),
    _ahead_of_time(_sums, ROUND=True, R=16, F=FEATURES),
]
