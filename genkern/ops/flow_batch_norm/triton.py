"""Flow batch normalisation on GPUs: statistics in one pass, then the affine maps of `actnorm`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import _triton
from ..actnorm.triton import (
    ACC,
    BLOCK,
    STEPS,
    ahead_of_time,
    apply,
    channel_of,
    dense,
    in_layout_of,
    partial_sums,
    sizes,
    tiles,
)


# one program: COLUMNS channels x STEPS tiles of ROWS values, read twice, the second time from the cache
@triton.jit
def _moments(x, partial, rows, channels, inner, A: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
             STEPS: tl.constexpr):  # fmt: skip
    c = (tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    first = tl.program_id(1).to(tl.int64) * (ROWS * STEPS)
    count = tl.minimum(rows - first, ROWS * STEPS).to(A)
    about = tl.zeros([1, COLUMNS], A)
    for again in range(2):
        sums = tl.zeros([ROWS, COLUMNS], A)
        squares = tl.zeros([ROWS, COLUMNS], A)
        for step in range(STEPS):
            row = (first + step * ROWS + tl.arange(0, ROWS))[:, None]
            keep = (row < rows) & (c < channels)
            at = (row // inner * channels + c) * inner + row % inner
            d = tl.where(keep, tl.load(x + at, keep, other=0).to(A) - about, 0.0)
            sums += d
            squares += d * d
        total = tl.sum(sums, axis=0)[None, :]
        to = partial + ((tl.program_id(1) * 2 + again) * channels + c) * 3
        tl.store(to, about, c < channels)
        tl.store(to + 1, total, c < channels)
        tl.store(to + 2, tl.sum(squares, axis=0)[None, :], c < channels)
        about += total / count


# one program: BLOCK elements; grad_x = f g + slope (x - mean) + offset with f = half^2
@triton.jit
def _combine(grad_y, x, grad_x, mean, half, slope, offset, total, channels, inner, A: tl.constexpr,
             BLOCK: tl.constexpr):  # fmt: skip
    start = tl.program_id(0).to(tl.int64) * BLOCK
    lane = tl.arange(0, BLOCK)
    keep = start + lane < total
    c = channel_of(start, lane, channels, inner)
    g = tl.load(grad_y + start + lane, keep, other=0).to(A)
    value = tl.load(x + start + lane, keep, other=0).to(A) - tl.load(mean + c, keep, other=0).to(A)
    h = tl.load(half + c, keep, other=0).to(A)
    value = g * h * h + (tl.load(slope + c, keep, other=0) * value + tl.load(offset + c, keep, other=0))
    tl.store(grad_x + start + lane, value.to(grad_x.dtype.element_ty), keep)


def flow_batch_norm_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    total, channels, inner = sizes(x)
    if not total:
        zeros = x.new_zeros(channels, dtype=_triton.wide(x))
        return zeros, zeros.clone()
    x, _ = dense(x)
    total, channels, inner = sizes(x)
    grid, tile = tiles(x)
    partial = x.new_empty(grid[1], 2, channels, 3, dtype=_triton.wide(x))
    _moments[grid](x, partial, total // channels, channels, inner, A=ACC[partial.dtype], **tile)
    first, second = partial.double().unbind(1)  # [slots, C, 3]: what sums are about, sum, sum of squares
    rows, chunk = total // channels, tile["ROWS"] * STEPS
    counts = torch.full((grid[1], 1), chunk, dtype=torch.float64, device=x.device)
    counts[-1] = rows - (grid[1] - 1) * chunk
    # corrected by the deviations from its rounding, save that half-precision elements give it nearly exactly as it is
    best = first if x.element_size() == 2 else second
    means = best[..., 0] + best[..., 1] / counts
    mean = (counts * means).sum(0) / rows
    deviations = second[..., 2] - second[..., 1].square() / counts + counts * (means - mean).square()
    return mean.to(partial.dtype), (deviations.sum(0).clamp(min=0) / rows).to(partial.dtype)


def _log_factor(log_scale: Tensor, variance: Tensor, eps: float) -> Tensor:
    return log_scale.double() - torch.log(variance.double() + eps) / 2


def flow_batch_norm(
    x: Tensor, log_scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    x, y = dense(x)
    log_factor = _log_factor(log_scale, variance, eps)
    if x.numel():
        half = torch.exp(log_factor / 2).to(log_scale.dtype)
        apply(x, y, -mean, half, bias.contiguous(), EXP=False)
    log_det = log_factor.sum() * x.shape[2:].numel()
    return y, log_det.to(log_scale.dtype).repeat(x.shape[0])


def flow_batch_norm_backward(
    grad_y: Tensor, grad_log_det: Tensor, x: Tensor, log_scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor,
    eps: float, needs_x: bool = True, needs_log_scale: bool = True, needs_bias: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    x, grad_x = dense(x)
    if not x.numel():
        return grad_x, torch.zeros_like(log_scale), torch.zeros_like(bias)
    grad_y, mean = in_layout_of(x, grad_y), mean.contiguous()
    log_factor = _log_factor(log_scale, variance, eps)
    sums = partial_sums(grad_y, x, None, -mean, log_scale.contiguous(), False).sum(0, dtype=torch.float64)  # [C, 2]
    factor, sites = log_factor.exp(), x.shape[2:].numel()
    grad_log_scale = factor * sums[:, 1] + sites * grad_log_det.sum(dtype=torch.float64)
    if needs_x:
        total, channels, inner = sizes(x)
        slope = -grad_log_scale / (total // channels * (variance.double() + eps))
        offset = -factor * sums[:, 0] / (total // channels)
        dtype = log_scale.dtype
        _combine[(triton.cdiv(total, BLOCK),)](
            grad_y, x, grad_x, mean, torch.exp(log_factor / 2).to(dtype), slope.to(dtype), offset.to(dtype), total,
            channels, inner, A=ACC[_triton.wide(x)], BLOCK=BLOCK,
        )  # fmt: skip
    nothing = log_scale.new_empty(0)
    return (
        grad_x if needs_x else x.new_empty(0),
        grad_log_scale.to(log_scale.dtype) if needs_log_scale else nothing,
        sums[:, 0].to(bias.dtype) if needs_bias else nothing,
    )


AHEAD_OF_TIME = [
    ahead_of_time(_moments, {"A": tl.float32, "ROWS": 512, "COLUMNS": 1, "STEPS": STEPS}),
    ahead_of_time(_combine, {"A": tl.float32, "BLOCK": BLOCK}),
]
