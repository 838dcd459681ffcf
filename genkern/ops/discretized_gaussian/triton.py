"""Likelihoods of diffusion models on GPUs: partial sums for each tile of a sample; gradients in one pass."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import _triton
from .._triton import AheadOfTime
from .bins import exp_minus_1_minus, log_bin

TILE = 1024


# one program: ROWS samples x TILE elements
@triton.jit
def _bins_forward(x, mean, log_std, sums, batch, elements, levels, ERF: tl.constexpr, ACC: tl.constexpr,
                  ROWS: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]  # [ROWS, 1]
    element = tl.program_id(1).to(tl.int64) * TILE + tl.arange(0, TILE)[None, :]  # [1, TILE]
    keep = (row < batch) & (element < elements)
    at = row * elements + element
    value = tl.load(x + at, keep, other=0).to(ACC)
    centre = tl.load(mean + at, keep, other=0).to(ACC)
    scale = tl.load(log_std + at, keep, other=0).to(ACC)
    log_prob, _, _ = log_bin(value, centre, scale, levels, ERF)
    total = tl.sum(tl.where(keep, log_prob, 0.0), axis=1)[:, None]
    tl.store(sums + row * tl.num_programs(1) + tl.program_id(1), total, row < batch)


# one program: ROWS samples x TILE elements
@triton.jit
def _bins_backward(grad, x, mean, log_std, grad_x, grad_mean, grad_log_std, batch, elements, levels,
                   NEEDS_X: tl.constexpr, NEEDS_MEAN: tl.constexpr, NEEDS_LOG_STD: tl.constexpr, ERF: tl.constexpr,
                   ACC: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]  # [ROWS, 1]
    element = tl.program_id(1).to(tl.int64) * TILE + tl.arange(0, TILE)[None, :]  # [1, TILE]
    keep = (row < batch) & (element < elements)
    at = row * elements + element
    value = tl.load(x + at, keep, other=0).to(ACC)
    centre = tl.load(mean + at, keep, other=0).to(ACC)
    scale = tl.load(log_std + at, keep, other=0).to(ACC)
    _, by_mean, by_log_std = log_bin(value, centre, scale, levels, ERF)
    g = tl.load(grad + row, row < batch, other=0).to(ACC)
    to = x.dtype.element_ty
    if NEEDS_X:
        tl.store(grad_x + at, (-g * by_mean).to(to), keep)
    if NEEDS_MEAN:
        tl.store(grad_mean + at, (g * by_mean).to(to), keep)
    if NEEDS_LOG_STD:
        tl.store(grad_log_std + at, (g * by_log_std).to(to), keep)


@triton.jit
def _column(coefficients, row, batch, index: tl.constexpr, ACC: tl.constexpr):
    return tl.load(coefficients + 8 * row + index, row < batch, other=0).to(ACC)


@triton.jit
def _model(x_t, output, variance, coefficients, row, at, batch, keep, LEARNED: tl.constexpr, CLIP: tl.constexpr,
           ACC: tl.constexpr):  # fmt: skip
    """x_t, the estimate of x_0, whether it was not clipped, and l - low."""
    noisy = tl.load(x_t + at, keep, other=0).to(ACC)
    predicted = tl.load(output + at, keep, other=0).to(ACC)
    raw = _column(coefficients, row, batch, 0, ACC) * noisy + _column(coefficients, row, batch, 1, ACC) * predicted
    inside = raw == raw
    estimate = raw
    if CLIP:
        inside = (raw >= -1.0) & (raw <= 1.0)
        estimate = tl.minimum(tl.maximum(raw, -1.0), 1.0)
    above = tl.zeros_like(raw)
    if LEARNED:
        v = tl.load(variance + at, keep, other=-1.0).to(ACC)
        above = (
            0.5 * (v + 1.0) * (_column(coefficients, row, batch, 6, ACC) - _column(coefficients, row, batch, 5, ACC))
        )
    return noisy, estimate, inside, above


# one program: ROWS samples x TILE elements
@triton.jit
def _term_forward(x0, x_t, output, variance, coefficients, sums, batch, elements, levels, LEARNED: tl.constexpr,
                  CLIP: tl.constexpr, ERF: tl.constexpr, ACC: tl.constexpr, ROWS: tl.constexpr,
                  TILE: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]  # [ROWS, 1]
    element = tl.program_id(1).to(tl.int64) * TILE + tl.arange(0, TILE)[None, :]  # [1, TILE]
    keep = (row < batch) & (element < elements)
    at = row * elements + element
    noisy, estimate, inside, above = _model(
        x_t, output, variance, coefficients, row, at, batch, keep, LEARNED, CLIP, ACC
    )
    clean = tl.load(x0 + at, keep, other=0).to(ACC)
    mean_x0 = _column(coefficients, row, batch, 2, ACC)
    of_q = _column(coefficients, row, batch, 4, ACC)
    low = _column(coefficients, row, batch, 5, ACC)
    beyond = above - (of_q - low)
    d = tl.minimum(-beyond, 80.0 + of_q)
    power = _triton.exp(d)
    error = mean_x0 * (clean - estimate)
    excess = exp_minus_1_minus(d, power) + (d + beyond)
    term = 0.5 * (excess + error * error * _triton.exp(-tl.maximum(low + above, -80.0)))
    decoder = _column(coefficients, row, batch, 7, ACC)
    if tl.max(decoder) != 0:
        mean = mean_x0 * estimate + _column(coefficients, row, batch, 3, ACC) * noisy
        log_prob, by_mean, by_log_std = log_bin(clean, mean, 0.5 * (low + above), levels, ERF)
        term = tl.where(decoder != 0, -log_prob, term)
    total = tl.sum(tl.where(keep, term, 0.0), axis=1)[:, None]
    tl.store(sums + row * tl.num_programs(1) + tl.program_id(1), total, row < batch)


# one program: ROWS samples x TILE elements
@triton.jit
def _term_backward(grad, x0, x_t, output, variance, coefficients, grad_x0, grad_x_t, grad_output, grad_variance, batch,
                   elements, levels, NEEDS_X0: tl.constexpr, NEEDS_X_T: tl.constexpr, NEEDS_OUTPUT: tl.constexpr,
                   NEEDS_VARIANCE: tl.constexpr, LEARNED: tl.constexpr, CLIP: tl.constexpr, ERF: tl.constexpr,
                   ACC: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]  # [ROWS, 1]
    element = tl.program_id(1).to(tl.int64) * TILE + tl.arange(0, TILE)[None, :]  # [1, TILE]
    keep = (row < batch) & (element < elements)
    at = row * elements + element
    noisy, estimate, inside, above = _model(x_t, output, variance, coefficients, row, at, batch, keep, LEARNED, CLIP,
                                            ACC)  # fmt: skip
    clean = tl.load(x0 + at, keep, other=0).to(ACC)
    g = tl.load(grad + row, row < batch, other=0).to(ACC)
    mean_x0 = _column(coefficients, row, batch, 2, ACC)
    mean_x_t = _column(coefficients, row, batch, 3, ACC)
    of_q = _column(coefficients, row, batch, 4, ACC)
    low = _column(coefficients, row, batch, 5, ACC)
    log_variance = low + above
    least = tl.maximum(log_variance, -80.0)
    inverse = _triton.exp(-least)
    error = mean_x0 * (clean - estimate)
    by_estimate = -mean_x0 * error * inverse
    within = tl.where(log_variance < -80.0, 0.0, _triton.exp(of_q - least) + error * error * inverse)
    by_log_variance = 0.5 * (1.0 - within)
    by_x0 = -by_estimate
    by_x_t = tl.zeros_like(by_estimate)
    decoder = _column(coefficients, row, batch, 7, ACC)
    if tl.max(decoder) != 0:
        mean = mean_x0 * estimate + mean_x_t * noisy
        log_prob, by_mean, by_log_std = log_bin(clean, mean, 0.5 * log_variance, levels, ERF)
        by_x0 = tl.where(decoder != 0, by_mean, by_x0)
        by_estimate = tl.where(decoder != 0, -mean_x0 * by_mean, by_estimate)
        by_x_t = tl.where(decoder != 0, -mean_x_t * by_mean, by_x_t)
        by_log_variance = tl.where(decoder != 0, -0.5 * by_log_std, by_log_variance)
    through = tl.where(inside, by_estimate, 0.0)
    to = x0.dtype.element_ty
    if NEEDS_X0:
        tl.store(grad_x0 + at, (g * by_x0).to(to), keep)
    if NEEDS_X_T:
        tl.store(grad_x_t + at, (g * (_column(coefficients, row, batch, 0, ACC) * through + by_x_t)).to(to), keep)
    if NEEDS_OUTPUT:
        tl.store(grad_output + at, (g * _column(coefficients, row, batch, 1, ACC) * through).to(to), keep)
    if NEEDS_VARIANCE:
        span = _column(coefficients, row, batch, 6, ACC) - low
        tl.store(grad_variance + at, (g * (0.5 * span) * by_log_variance).to(to), keep)


# -- launchers ---------------------------------------------------------------------------------------------------------

_ACC = {torch.float32: tl.float32, torch.float64: tl.float64}


def _plan(x: Tensor, levels: int, cdf: str) -> tuple[tuple[Any, ...], tuple[int, int], dict[str, Any]]:
    """Sizes and bins, the grid, and the constants."""
    batch, elements = x.shape[0], x.shape[1:].numel()
    tile = min(TILE, triton.next_power_of_2(elements))
    constants = {"ERF": cdf == "erf", "ACC": _ACC[_triton.wide(x)], "ROWS": TILE // tile, "TILE": tile}
    grid = triton.cdiv(batch, TILE // tile), triton.cdiv(elements, tile)
    return (batch, elements, levels), grid, constants


def _sums(like: Tensor, grid: tuple[int, int]) -> Tensor:
    return like.new_empty(like.shape[0], grid[1], dtype=_triton.wide(like))


def _gradients(inputs: tuple[Tensor, ...], needs: tuple[bool, ...]) -> list[Tensor]:
    return [torch.empty(like.shape if need else 0, dtype=like.dtype, device=like.device)
            for like, need in zip(inputs, needs, strict=True)]  # fmt: skip


def _in_order(inputs: tuple[Tensor, ...], grads: list[Tensor]) -> tuple[Tensor, ...]:
    """Gradients with the strides of the inputs."""
    return tuple(
        grad if grad.shape != like.shape or like.is_contiguous() else torch.empty_like(like).copy_(grad)
        for like, grad in zip(inputs, grads, strict=True)
    )


def discretized_gaussian(x: Tensor, mean: Tensor, log_std: Tensor, levels: int, cdf: str) -> Tensor:
    if not x.numel():
        return x.new_zeros(x.shape[0], dtype=_triton.wide(x))
    sizes, grid, constants = _plan(x, levels, cdf)
    sums = _sums(x, grid)
    _bins_forward[grid](x.contiguous(), mean.contiguous(), log_std.contiguous(), sums, *sizes, **constants)
    return sums.sum(1)


def discretized_gaussian_backward(
    grad: Tensor, x: Tensor, mean: Tensor, log_std: Tensor, levels: int, cdf: str,
    needs_x: bool = True, needs_mean: bool = True, needs_log_std: bool = True,
) -> tuple[Tensor, ...]:  # fmt: skip
    inputs = x, mean, log_std
    grads = _gradients(inputs, (needs_x, needs_mean, needs_log_std))
    if x.numel():
        sizes, grid, constants = _plan(x, levels, cdf)
        _bins_backward[grid](grad.contiguous(), *(value.contiguous() for value in inputs), *grads, *sizes,
                             NEEDS_X=needs_x, NEEDS_MEAN=needs_mean, NEEDS_LOG_STD=needs_log_std,
                             **constants)  # fmt: skip
    return _in_order(inputs, grads)


def _term(images: tuple[Tensor, ...], coefficients: Tensor, clip: bool, levels: int, cdf: str, learned: bool) -> Tensor:
    x0 = images[0]
    if not x0.numel():
        return x0.new_zeros(x0.shape[0], dtype=_triton.wide(x0))
    sizes, grid, constants = _plan(x0, levels, cdf)
    sums = _sums(x0, grid)
    _term_forward[grid](*(image.contiguous() for image in images), coefficients.contiguous(), sums, *sizes,
                        LEARNED=learned, CLIP=clip, **constants)  # fmt: skip
    return sums.sum(1)


def _term_gradients(
    grad: Tensor, images: tuple[Tensor, ...], coefficients: Tensor, clip: bool, levels: int, cdf: str, learned: bool,
    needs: tuple[bool, ...],
) -> tuple[Tensor, ...]:  # fmt: skip
    grads = _gradients(images, needs)
    if images[0].numel():
        sizes, grid, constants = _plan(images[0], levels, cdf)
        _term_backward[grid](grad.contiguous(), *(image.contiguous() for image in images), coefficients.contiguous(),
                             *grads, *sizes, NEEDS_X0=needs[0], NEEDS_X_T=needs[1], NEEDS_OUTPUT=needs[2],
                             NEEDS_VARIANCE=needs[3], LEARNED=learned, CLIP=clip, **constants)  # fmt: skip
    return _in_order(images, grads)


def vlb_term(
    x0: Tensor, x_t: Tensor, output: Tensor, variance: Tensor, coefficients: Tensor, clip: bool, levels: int, cdf: str
) -> Tensor:
    return _term((x0, x_t, output, variance), coefficients, clip, levels, cdf, True)


def vlb_term_backward(
    grad: Tensor, x0: Tensor, x_t: Tensor, output: Tensor, variance: Tensor, coefficients: Tensor, clip: bool,
    levels: int, cdf: str, needs_x0: bool = True, needs_x_t: bool = True, needs_output: bool = True,
    needs_variance: bool = True,
) -> tuple[Tensor, ...]:  # fmt: skip
    needs = needs_x0, needs_x_t, needs_output, needs_variance
    return _term_gradients(grad, (x0, x_t, output, variance), coefficients, clip, levels, cdf, True, needs)


def vlb_term_fixed(
    x0: Tensor, x_t: Tensor, output: Tensor, coefficients: Tensor, clip: bool, levels: int, cdf: str
) -> Tensor:
    return _term((x0, x_t, output, x0), coefficients, clip, levels, cdf, False)


def vlb_term_fixed_backward(
    grad: Tensor, x0: Tensor, x_t: Tensor, output: Tensor, coefficients: Tensor, clip: bool, levels: int, cdf: str,
    needs_x0: bool = True, needs_x_t: bool = True, needs_output: bool = True,
) -> tuple[Tensor, ...]:  # fmt: skip
    needs = needs_x0, needs_x_t, needs_output, False
    return _term_gradients(grad, (x0, x_t, output, x0), coefficients, clip, levels, cdf, False, needs)[:3]


def _ahead_of_time(kernel: triton.JITFunction, **extra: Any) -> AheadOfTime:
    constants = {"ERF": True, "ACC": tl.float32, "ROWS": 1, "TILE": TILE, **extra}
    types = {"batch": "i64", "elements": "i64", "levels": "i32"}
    types |= dict.fromkeys(("grad", "sums", "coefficients"), "*fp32")
    signature = {name: types.get(name, "*bf16") for name in kernel.arg_names if name not in constants}
    return AheadOfTime(kernel, signature, constants)


AHEAD_OF_TIME = [
    _ahead_of_time(_bins_forward),
    _ahead_of_time(_bins_backward, NEEDS_X=True, NEEDS_MEAN=True, NEEDS_LOG_STD=True, ERF=False),
    _ahead_of_time(_term_forward, LEARNED=True, CLIP=True),
    _ahead_of_time(_term_backward, NEEDS_X0=True, NEEDS_X_T=True, NEEDS_OUTPUT=True, NEEDS_VARIANCE=True, LEARNED=True,
                   CLIP=True),
]  # fmt: skip
