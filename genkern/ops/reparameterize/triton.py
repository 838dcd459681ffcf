"""Draws of diagonal Gaussians on GPUs, noise in registers. Launched without fusion into fma: the noise is exact."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import _triton
from .._triton import AheadOfTime
from ..random.triton import EXACT, _box_muller

TILE = 1024
CEILING = tl.constexpr(60.0)
_ACC = {torch.float32: tl.float32, torch.float64: tl.float64}


@triton.jit
def _exponential(x, ceiling):
    """Value and slope of e^x, its tangent above the ceiling."""
    bounded = tl.minimum(x, ceiling)
    slope = _triton.exp(bounded)
    return slope + slope * (x - bounded), slope


@triton.jit
def _exponential_m1(x):
    """Value and slope, each less 1: from tanh where e^x is near 1."""
    bounded = tl.minimum(x, CEILING)
    near = tl.abs(bounded) < 1.0
    t = _triton.tanh(tl.where(near, 0.5 * bounded, 0.0))
    slope = tl.where(near, 2.0 * t / (1.0 - t), _triton.exp(bounded) - 1.0)
    return slope + (slope + 1.0) * (x - bounded), slope


@triton.jit
def _noise(key, sample, tile, ROWS: tl.constexpr, TILE: tl.constexpr):
    """Elements of one tile of each of some samples, four to a counter: [ROWS, TILE]."""
    quad = tile.to(tl.int64) * (TILE // 4) + tl.arange(0, TILE // 4)[None, :]
    zero = tl.zeros((ROWS, TILE // 4), tl.uint32)
    seed = tl.load(key).to(tl.uint64, bitcast=True)
    high = (sample >> 32).to(tl.uint32) + zero
    x, y, z, w = tl.philox(seed, quad.to(tl.uint32) + zero, zero, sample.to(tl.uint32) + zero, high)
    a, b = _box_muller(x, y)
    c, d = _box_muller(z, w)
    return tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), (ROWS, TILE))


# one program: ROWS samples x TILE elements
@triton.jit
def _forward(mean, logvar, prior_mean, prior_logvar, key, z, kl, batch, elements, ms, vs, pms, pvs, sample_offset,
             PRIOR: tl.constexpr, PER_ELEMENT: tl.constexpr, ACC: tl.constexpr, ROWS: tl.constexpr,
             TILE: tl.constexpr):  # fmt: skip
    b = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]  # [ROWS, 1]
    e = tl.program_id(1).to(tl.int64) * TILE + tl.arange(0, TILE)[None, :]  # [1, TILE]
    keep = (b < batch) & (e < elements)
    noise = _noise(key, b + sample_offset, tl.program_id(1), ROWS, TILE).to(ACC)
    m = tl.load(mean + b * ms + e, keep, other=0).to(ACC)
    v = tl.load(logvar + b * vs + e, keep, other=0).to(ACC)
    std, _ = _exponential(0.5 * v, 0.5 * CEILING)
    tl.store(z + b * elements + e, (m + std * noise).to(z.dtype.element_ty), keep)
    if PRIOR:
        d = m - tl.load(prior_mean + b * pms + e, keep, other=0).to(ACC)
        pv = tl.load(prior_logvar + b * pvs + e, keep, other=0).to(ACC)
        precision, _ = _exponential(-pv, CEILING)
        ratio, _ = _exponential_m1(v - pv)
        term = 0.5 * (d * d * precision + (ratio - (v - pv)))
    else:
        ratio, _ = _exponential_m1(v)
        term = 0.5 * (m * m + (ratio - v))
    if PER_ELEMENT:
        tl.store(kl + b * elements + e, term, keep)
    else:
        total = tl.sum(tl.where(keep, term, 0.0), axis=1)[:, None]
        tl.store(kl + b * tl.num_programs(1) + tl.program_id(1), total, b < batch)


@triton.jit
def _backward(grad_z, grad_kl, mean, logvar, prior_mean, prior_logvar, key, grad_mean, grad_logvar, grad_prior_mean,
              grad_prior_logvar, batch, elements, ms, vs, pms, pvs, sample_offset, PRIOR: tl.constexpr,
              PER_ELEMENT: tl.constexpr, ACC: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    b = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]  # [ROWS, 1]
    e = tl.program_id(1).to(tl.int64) * TILE + tl.arange(0, TILE)[None, :]  # [1, TILE]
    keep = (b < batch) & (e < elements)
    at = b * elements + e
    noise = _noise(key, b + sample_offset, tl.program_id(1), ROWS, TILE).to(ACC)
    m = tl.load(mean + b * ms + e, keep, other=0).to(ACC)
    v = tl.load(logvar + b * vs + e, keep, other=0).to(ACC)
    gz = tl.load(grad_z + at, keep, other=0).to(ACC)
    if PER_ELEMENT:
        gk = tl.load(grad_kl + at, keep, other=0).to(ACC)
    else:
        gk = tl.load(grad_kl + b, b < batch, other=0).to(ACC)
    _, std = _exponential(0.5 * v, 0.5 * CEILING)
    spread = 0.5 * std * noise
    to = grad_mean.dtype.element_ty
    if PRIOR:
        d = m - tl.load(prior_mean + b * pms + e, keep, other=0).to(ACC)
        pv = tl.load(prior_logvar + b * pvs + e, keep, other=0).to(ACC)
        _, slope = _exponential_m1(v - pv)
        ratio = gk * (0.5 * slope)
        precision, precision_slope = _exponential(-pv, CEILING)
        pull = gk * d * precision
        tl.store(grad_mean + at, (gz + pull).to(to), keep)
        tl.store(grad_prior_mean + at, (-pull).to(to), keep)
        tl.store(grad_prior_logvar + at, (-ratio - 0.5 * (gk * d * d * precision_slope)).to(to), keep)
    else:
        _, slope = _exponential_m1(v)
        ratio = gk * (0.5 * slope)
        tl.store(grad_mean + at, (gz + gk * m).to(to), keep)
    tl.store(grad_logvar + at, (gz * spread + ratio).to(to), keep)


def _rows(tensor: Tensor) -> tuple[Tensor, int]:
    """Samples that are contiguous in themselves, or a dense copy; and the stride between samples."""
    expected = 1
    for size, stride in zip(reversed(tensor.shape[1:]), reversed(tensor.stride()[1:]), strict=True):
        if size != 1 and stride != expected:
            return tensor.contiguous(), tensor.shape[1:].numel()
        expected *= size
    return tensor, tensor.stride(0)


def _plan(like: Tensor, per_element: bool, prior: bool) -> tuple[int, int, dict[str, Any], tuple[int, int]]:
    batch, elements = like.shape[0], like.shape[1:].numel()
    tile = max(4, min(TILE, triton.next_power_of_2(elements)))
    rows = TILE // tile
    constants = {"PRIOR": prior, "PER_ELEMENT": per_element, "ACC": _ACC[_triton.wide(like)], "ROWS": rows}
    grid = triton.cdiv(batch, rows), triton.cdiv(elements, tile)
    return batch, elements, constants | {"TILE": tile, **EXACT}, grid


def _run_forward(inputs: tuple[Tensor, ...], key: Tensor, per_element: bool, offset: int) -> tuple[Tensor, Tensor]:
    like, wide, prior = inputs[0], _triton.wide(inputs[0]), len(inputs) == 4
    z = like.new_empty(like.shape)
    if not like.numel():
        return z, like.new_zeros(like.shape if per_element else like.shape[:1], dtype=wide)
    batch, elements, constants, grid = _plan(like, per_element, prior)
    rows = [_rows(tensor) for tensor in (inputs if prior else inputs * 2)]
    kl = like.new_empty(like.shape if per_element else (batch, grid[1]), dtype=wide)
    _forward[grid](*(tensor for tensor, _ in rows), key, z, kl, batch, elements, *(stride for _, stride in rows),
                   offset, **constants)  # fmt: skip
    return z, kl if per_element else kl.sum(1)


def _run_backward(
    grads: tuple[Tensor, Tensor], inputs: tuple[Tensor, ...], key: Tensor, per_element: bool, offset: int
) -> tuple[Tensor, ...]:
    like, prior = inputs[0], len(inputs) == 4
    results = tuple(map(torch.empty_like, inputs))
    if not like.numel():
        return results
    batch, elements, constants, grid = _plan(like, per_element, prior)
    rows = [_rows(tensor) for tensor in (inputs if prior else inputs * 2)]
    direct = [result if result.is_contiguous() else result.contiguous() for result in results]
    outputs = direct if prior else direct * 2
    _backward[grid](*(grad.contiguous() for grad in grads), *(tensor for tensor, _ in rows), key, *outputs, batch,
                    elements, *(stride for _, stride in rows), offset, **constants)  # fmt: skip
    return tuple(r if d is r else r.copy_(d) for r, d in zip(results, direct, strict=True))


def reparameterize(
    mean: Tensor, logvar: Tensor, key: Tensor, per_element: bool, sample_offset: int
) -> tuple[Tensor, Tensor]:
    return _run_forward((mean, logvar), key, per_element, sample_offset)


def reparameterize_backward(
    grad_z: Tensor, grad_kl: Tensor, mean: Tensor, logvar: Tensor, key: Tensor, per_element: bool, sample_offset: int
) -> tuple[Tensor, ...]:
    return _run_backward((grad_z, grad_kl), (mean, logvar), key, per_element, sample_offset)


def reparameterize_prior(
    mean: Tensor, logvar: Tensor, prior_mean: Tensor, prior_logvar: Tensor, key: Tensor, per_element: bool,
    sample_offset: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return _run_forward((mean, logvar, prior_mean, prior_logvar), key, per_element, sample_offset)


def reparameterize_prior_backward(
    grad_z: Tensor, grad_kl: Tensor, mean: Tensor, logvar: Tensor, prior_mean: Tensor, prior_logvar: Tensor,
    key: Tensor, per_element: bool, sample_offset: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    return _run_backward((grad_z, grad_kl), (mean, logvar, prior_mean, prior_logvar), key, per_element, sample_offset)


def _ahead_of_time(kernel: triton.JITFunction, prior: bool) -> AheadOfTime:
    constants = {"PRIOR": prior, "PER_ELEMENT": False, "ACC": tl.float32, "ROWS": 1, "TILE": TILE}
    pointers = dict.fromkeys(
        ("mean", "logvar", "prior_mean", "prior_logvar", "z", "grad_z", "grad_mean", "grad_logvar", "grad_prior_mean",
         "grad_prior_logvar"), "*bf16"
    ) | {"kl": "*fp32", "grad_kl": "*fp32", "key": "*i64"}  # fmt: skip
    signature = {name: pointers.get(name, "i64") for name in kernel.arg_names if name not in constants}
    return AheadOfTime(kernel, signature, constants, EXACT)


AHEAD_OF_TIME = [_ahead_of_time(kernel, prior) for kernel in (_forward, _backward) for prior in (False, True)]
