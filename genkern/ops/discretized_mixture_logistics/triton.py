"""Discretised mixtures of logistics on GPUs: a thread for each pixel, components in a loop, nothing in memory."""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import _triton
from .._triton import AheadOfTime

PIXELS = 128


@triton.jit
def _expm1_negative(t):
    """e^-t - 1 for t >= 0, exact in relative terms also for tiny t."""
    h = _triton.tanh(0.5 * t)
    return -2.0 * h / (1.0 + h)


@triton.jit
def _sub_pixel(at, plane, channel: tl.constexpr, keep, k, mixtures, base, value, level, last, mean_of_others,
               step, log_step, min_log_scale, OPEN: tl.constexpr, KINDS: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    """log p of one sub-pixel, and its derivatives in the mean and in the log-scale."""
    first = base + channel * KINDS * mixtures + k
    mean = tl.load(at + first * plane, keep, other=0).to(ACC) + mean_of_others
    s = tl.load(at + (first + mixtures) * plane, keep, other=0).to(ACC)
    bound = s < min_log_scale
    s = tl.where(bound, min_log_scale, s)
    inverse = _triton.exp(-s)
    p = inverse * (value - mean + 0.5 * step)
    m = inverse * (value - mean - 0.5 * step)
    width = tl.maximum(inverse * step, 1e-10)
    low = (level <= 0) & OPEN
    high = (level >= last) & OPEN
    ep = _triton.exp(-tl.abs(p))
    em = _triton.exp(-tl.abs(m))
    opened = -_expm1_negative(width)
    middle = tl.log(opened / width) + (log_step - s)
    below = tl.minimum(p, 0.0) - _triton.log1p_nonnegative(ep)
    above = -tl.maximum(m, 0.0) - _triton.log1p_nonnegative(em)
    log_p = tl.where(high, 0.0, below) + tl.where(low, 0.0, above) + tl.where(low | high, 0.0, middle)
    dp = tl.where(high, 0.0, tl.where(p > 0, ep, 1.0) / (1.0 + ep))
    dm = tl.where(low, 0.0, tl.where(m > 0, 1.0, em) / (1.0 + em))
    dt = tl.where(low | high, 0.0, width * _triton.exp(-width) / opened)
    return log_p, inverse * (dm - dp), tl.where(bound, 0.0, m * dm - p * dp - dt)


@triton.jit
def _component(at, plane, keep, k, mixtures, values0, values1, values2, level0, level1, level2, last, step, log_step,
               min_log_scale, CHANNELS: tl.constexpr, OPEN: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    """log p of a pixel under component k with its logit, the coefficients, and the slopes of each sub-pixel."""
    logit = tl.load(at + k * plane, keep, other=0).to(ACC)
    zero = logit * 0
    if CHANNELS == 1:
        log_p, mean0, scale0 = _sub_pixel(at, plane, 0, keep, k, mixtures, mixtures, values0, level0, last, zero, step,
                                          log_step, min_log_scale, OPEN, 2, ACC)  # fmt: skip
        return logit + log_p, zero, zero, zero, mean0, zero, zero, scale0, zero, zero
    else:
        first = at + (3 * mixtures + k) * plane
        c0 = _triton.tanh(tl.load(first, keep, other=0).to(ACC))
        c1 = _triton.tanh(tl.load(first + 3 * mixtures * plane, keep, other=0).to(ACC))
        c2 = _triton.tanh(tl.load(first + 6 * mixtures * plane, keep, other=0).to(ACC))
        p0, mean0, scale0 = _sub_pixel(at, plane, 0, keep, k, mixtures, mixtures, values0, level0, last, zero, step,
                                       log_step, min_log_scale, OPEN, 3, ACC)  # fmt: skip
        p1, mean1, scale1 = _sub_pixel(at, plane, 1, keep, k, mixtures, mixtures, values1, level1, last, c0 * values0,
                                       step, log_step, min_log_scale, OPEN, 3, ACC)  # fmt: skip
        p2, mean2, scale2 = _sub_pixel(at, plane, 2, keep, k, mixtures, mixtures, values2, level2, last,
                                       c1 * values0 + c2 * values1, step, log_step, min_log_scale, OPEN, 3,
                                       ACC)  # fmt: skip
        return logit + p0 + p1 + p2, c0, c1, c2, mean0, mean1, mean2, scale0, scale1, scale2


@triton.jit
def _levels(x, b, s, keep, sites, low, step, CHANNELS: tl.constexpr, ACC: tl.constexpr):
    at = x + b * CHANNELS * sites + s
    level0 = tl.load(at, keep, other=0).to(ACC)
    level1 = level0
    level2 = level0
    if CHANNELS == 3:
        level1 = tl.load(at + sites, keep, other=0).to(ACC)
        level2 = tl.load(at + 2 * sites, keep, other=0).to(ACC)
    return level0, level1, level2, low + step * level0, low + step * level1, low + step * level2


@triton.jit
def _add(top, total, value):
    """log-sum-exp with one more term, as e^top * total."""
    larger = tl.maximum(top, value)
    return larger, total * _triton.exp(top - larger) + _triton.exp(value - larger)


# one program: PIXELS sites of a sample
@triton.jit
def _forward(params, x, nll, sites, mixtures, last, low, step, log_step, min_log_scale, CHANNELS: tl.constexpr,
             OPEN: tl.constexpr, ACC: tl.constexpr, PIXELS: tl.constexpr):  # fmt: skip
    b = tl.program_id(1).to(tl.int64)
    s = tl.program_id(0).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)
    keep = s < sites
    at = params + b * mixtures * (3 if CHANNELS == 1 else 10) * sites + s
    level0, level1, level2, value0, value1, value2 = _levels(x, b, s, keep, sites, low, step, CHANNELS, ACC)
    top = tl.full([PIXELS], -1e30, ACC)
    total = tl.zeros([PIXELS], ACC)
    prior_top = top
    prior_total = total
    for k in range(mixtures):
        log_p, _, _, _, _, _, _, _, _, _ = _component(at, sites, keep, k, mixtures, value0, value1, value2, level0,
                                                      level1, level2, last, step, log_step, min_log_scale, CHANNELS,
                                                      OPEN, ACC)  # fmt: skip
        top, total = _add(top, total, log_p)
        prior_top, prior_total = _add(prior_top, prior_total, tl.load(at + k * sites, keep, other=0).to(ACC))
    tl.store(nll + b * sites + s, (prior_top - top) + tl.log(prior_total / total), keep)


@triton.jit
def _backward(grad_nll, params, x, grad_params, sites, mixtures, last, low, step, log_step, min_log_scale,
              CHANNELS: tl.constexpr, OPEN: tl.constexpr, ACC: tl.constexpr, PIXELS: tl.constexpr):  # fmt: skip
    b = tl.program_id(1).to(tl.int64)
    s = tl.program_id(0).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)
    keep = s < sites
    offset = b * mixtures * (3 if CHANNELS == 1 else 10) * sites + s
    at = params + offset
    to = grad_params + offset
    kind = grad_params.dtype.element_ty
    level0, level1, level2, value0, value1, value2 = _levels(x, b, s, keep, sites, low, step, CHANNELS, ACC)
    g = tl.load(grad_nll + b * sites + s, keep, other=0).to(ACC)
    top = tl.full([PIXELS], -1e30, ACC)
    total = tl.zeros([PIXELS], ACC)
    prior_top = top
    prior_total = total
    for k in range(mixtures):
        log_p, _, _, _, _, _, _, _, _, _ = _component(at, sites, keep, k, mixtures, value0, value1, value2, level0,
                                                      level1, level2, last, step, log_step, min_log_scale, CHANNELS,
                                                      OPEN, ACC)  # fmt: skip
        top, total = _add(top, total, log_p)
        prior_top, prior_total = _add(prior_top, prior_total, tl.load(at + k * sites, keep, other=0).to(ACC))
    for k in range(mixtures):
        log_p, c0, c1, c2, mean0, mean1, mean2, scale0, scale1, scale2 = _component(
            at, sites, keep, k, mixtures, value0, value1, value2, level0, level1, level2, last, step, log_step,
            min_log_scale, CHANNELS, OPEN, ACC)  # fmt: skip
        share = g * _triton.exp(log_p - top) / total
        logit = tl.load(at + k * sites, keep, other=0).to(ACC)
        tl.store(to + k * sites, (g * _triton.exp(logit - prior_top) / prior_total - share).to(kind), keep)
        first = to + (mixtures + k) * sites
        plane = mixtures * sites
        tl.store(first, (-share * mean0).to(kind), keep)
        tl.store(first + plane, (-share * scale0).to(kind), keep)
        if CHANNELS == 3:
            tl.store(first + 2 * plane, (-share * mean1 * value0 * (1.0 - c0 * c0)).to(kind), keep)
            tl.store(first + 3 * plane, (-share * mean1).to(kind), keep)
            tl.store(first + 4 * plane, (-share * scale1).to(kind), keep)
            tl.store(first + 5 * plane, (-share * mean2 * value0 * (1.0 - c1 * c1)).to(kind), keep)
            tl.store(first + 6 * plane, (-share * mean2).to(kind), keep)
            tl.store(first + 7 * plane, (-share * scale2).to(kind), keep)
            tl.store(first + 8 * plane, (-share * mean2 * value1 * (1.0 - c2 * c2)).to(kind), keep)


# one program: PIXELS sites of a sample
@triton.jit
def _sample(params, noise, x, sites, mixtures, last, low, step, min_log_scale, temperature, CHANNELS: tl.constexpr,
            MODE: tl.constexpr, ACC: tl.constexpr, PIXELS: tl.constexpr):  # fmt: skip
    b = tl.program_id(1).to(tl.int64)
    s = tl.program_id(0).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)
    keep = s < sites
    at = params + b * mixtures * (3 if CHANNELS == 1 else 10) * sites + s
    u = noise + b * (CHANNELS + 1) * sites + s
    top = tl.load(at, keep, other=0).to(ACC)
    chosen = tl.zeros([PIXELS], tl.int64)
    for k in range(1, mixtures):
        logit = tl.load(at + k * sites, keep, other=0).to(ACC)
        chosen = tl.where(logit > top, k, chosen)
        top = tl.maximum(top, logit)
    if not MODE:
        total = tl.zeros([PIXELS], ACC)
        for k in range(mixtures):
            total += _triton.exp((tl.load(at + k * sites, keep, other=0).to(ACC) - top) / temperature)
        threshold = tl.load(u, keep, other=0.5).to(ACC) * total
        cumulative = tl.zeros([PIXELS], ACC)
        chosen = tl.zeros([PIXELS], tl.int64)
        for k in range(mixtures - 1):
            cumulative += _triton.exp((tl.load(at + k * sites, keep, other=0).to(ACC) - top) / temperature)
            chosen += (cumulative <= threshold).to(tl.int64)
    value0 = tl.zeros([PIXELS], ACC)
    value1 = tl.zeros([PIXELS], ACC)
    plane = mixtures * sites
    own = at + (mixtures + chosen) * sites
    kinds: tl.constexpr = 2 if CHANNELS == 1 else 3
    for c in tl.static_range(CHANNELS):
        mean = tl.load(own + c * kinds * plane, keep, other=0).to(ACC)
        if c == 1:
            mean += _triton.tanh(tl.load(own + 2 * plane, keep, other=0).to(ACC)) * value0
        if c == 2:
            mean += _triton.tanh(tl.load(own + 5 * plane, keep, other=0).to(ACC)) * value0
            mean += _triton.tanh(tl.load(own + 8 * plane, keep, other=0).to(ACC)) * value1
        if not MODE:
            v = tl.load(u + (c + 1) * sites, keep, other=0.5).to(ACC)
            log_scale = tl.load(own + (c * kinds + 1) * plane, keep, other=0).to(ACC)
            scale = _triton.exp(tl.maximum(log_scale, min_log_scale))
            mean += temperature * scale * (tl.log(v) - tl.log(1.0 - v))
        real = tl.minimum(tl.maximum((mean - low) / step, 0.0), last)
        level = tl.floor(real)
        rest = real - level  # half to even, as everywhere
        odd = level - 2.0 * tl.floor(level * 0.5)
        level += tl.where((rest > 0.5) | ((rest == 0.5) & (odd == 1.0)), 1.0, 0.0)
        if c == 0:
            value0 = low + step * level
        if c == 1:
            value1 = low + step * level
        tl.store(x + (b * CHANNELS + c) * sites + s, level.to(x.dtype.element_ty), keep)


# -- launchers ---------------------------------------------------------------------------------------------------------

_ACC = {torch.float32: tl.float32, torch.float64: tl.float64}


def _plan(params: Tensor, channels: int) -> tuple[tuple[int, int], tuple[int, int], dict[str, Any]]:
    """Sites and components, the grid, and the constants."""
    sites, mixtures = params.shape[2:].numel(), params.shape[1] // (3 if channels == 1 else 10)
    constants = {"CHANNELS": channels, "ACC": _ACC[_triton.wide(params)], "PIXELS": PIXELS}
    return (sites, mixtures), (triton.cdiv(sites, PIXELS), params.shape[0]), constants


def _scalars(levels: int, low: float, high: float) -> tuple[float, float, float, float]:
    step = (high - low) / (levels - 1)
    return float(levels - 1), low, step, math.log(step)


def discretized_mixture_logistics(
    params: Tensor, x: Tensor, levels: int, low: float, high: float, open_edges: bool, min_log_scale: float
) -> Tensor:
    params, x = params.contiguous(), x.contiguous()
    nll = params.new_empty((params.shape[0], *params.shape[2:]), dtype=_triton.wide(params))
    if nll.numel():
        sizes, grid, constants = _plan(params, x.shape[1])
        scalars = (*_scalars(levels, low, high), min_log_scale)
        _forward[grid](params, x, nll, *sizes, *scalars, OPEN=open_edges, **constants)
    return nll


def discretized_mixture_logistics_backward(
    grad_nll: Tensor, params: Tensor, x: Tensor, levels: int, low: float, high: float, open_edges: bool,
    min_log_scale: float,
) -> Tensor:  # fmt: skip
    grad_nll, params, x = grad_nll.contiguous(), params.contiguous(), x.contiguous()
    grad_params = torch.empty_like(params)
    if grad_params.numel():
        sizes, grid, constants = _plan(params, x.shape[1])
        scalars = (*_scalars(levels, low, high), min_log_scale)
        _backward[grid](grad_nll, params, x, grad_params, *sizes, *scalars, OPEN=open_edges, **constants)
    return grad_params


def discretized_mixture_logistics_sample(
    params: Tensor, noise: Tensor, levels: int, low: float, high: float, min_log_scale: float, temperature: float,
    dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    params, noise = params.contiguous(), noise.contiguous()
    channels = noise.shape[1] - 1
    x = params.new_empty((params.shape[0], channels, *params.shape[2:]), dtype=dtype)
    if x.numel():
        sizes, grid, constants = _plan(params, channels)
        last, low, step, _ = _scalars(levels, low, high)
        _sample[grid](params, noise, x, *sizes, last, low, step, min_log_scale, temperature, MODE=temperature == 0,
                      **constants)  # fmt: skip
    return x


def _ahead_of_time(kernel: Any, **extra: Any) -> AheadOfTime:
    constants = {"CHANNELS": 3, "ACC": tl.float32, "PIXELS": PIXELS, **extra}
    types = {"params": "*bf16", "grad_params": "*bf16", "x": "*u8", "nll": "*fp32", "grad_nll": "*fp32",
             "noise": "*fp32", "sites": "i64", "mixtures": "i32"}  # fmt: skip
    signature = {name: types.get(name, "fp32") for name in kernel.arg_names if name not in constants}
    return AheadOfTime(kernel, signature, constants)


AHEAD_OF_TIME = [
    _ahead_of_time(_forward, OPEN=True),
    _ahead_of_time(_backward, OPEN=True),
    _ahead_of_time(_sample, MODE=False),
]
