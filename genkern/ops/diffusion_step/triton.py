"""Steps of diffusion samplers on GPUs, noise drawn in registers. Launched without fusion into fma: it is exact."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import _triton
from .._triton import AheadOfTime
from ..random.triton import EXACT, _box_muller
from . import reference
from .noise import diffusion_step_backward

TILE = 1024
COLUMNS = tl.constexpr(9)


@triton.jit
def _column(coefficients, at, valid, C: tl.constexpr):
    return tl.where(valid, tl.load(coefficients + at * COLUMNS + C, valid, other=0), float("nan"))


# [ROWS, TILE] standard normal numbers, four to a counter
@triton.jit
def _noise(key, step, row, sample_offset, key_stride, step_stride, keep_row, FOLD: tl.constexpr, ROWS: tl.constexpr,
           TILE: tl.constexpr):  # fmt: skip
    seed = tl.load(key + row * key_stride, keep_row, other=0).to(tl.uint64, bitcast=True)  # [ROWS, 1]
    if FOLD:
        number = tl.load(step + row * step_stride, keep_row, other=0)
        zero = number.to(tl.uint32) * 0
        low, high, _, _ = tl.philox(seed, zero, zero + 1, number.to(tl.uint32), (number >> 32).to(tl.uint32))
        seed = low.to(tl.uint64) | (high.to(tl.uint64) << 32)
    quad = tl.program_id(1).to(tl.int64) * (TILE // 4) + tl.arange(0, TILE // 4)[None, :]
    sample = tl.where(key_stride == 0, row, 0) + sample_offset
    zero = tl.zeros((ROWS, TILE // 4), tl.uint32)
    seed = seed + tl.zeros((ROWS, TILE // 4), tl.uint64)
    a, b, c, d = tl.philox(seed, quad.to(tl.uint32) + zero, zero, sample.to(tl.uint32) + zero,
                           (sample >> 32).to(tl.uint32) + zero)  # fmt: skip
    z0, z1 = _box_muller(a, b)
    z2, z3 = _box_muller(c, d)
    return tl.reshape(tl.join(tl.join(z0, z2), tl.join(z1, z3)), (ROWS, TILE))


# one program: ROWS samples x TILE elements
@triton.jit
def _step(x, model_output, unconditional, previous, log_variance, coefficients, threshold, key, step, factors, out, x0,
          batch, elements, rows, row_stride, key_stride, step_stride, sample_offset, guidance, low, high,
          GUIDED: tl.constexpr, RESCALED: tl.constexpr, PREVIOUS: tl.constexpr, LEARNED: tl.constexpr,
          THRESHOLD: tl.constexpr, NOISY: tl.constexpr, STEPS: tl.constexpr, RETURN_X0: tl.constexpr,
          ACC: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]  # [ROWS, 1]
    element = tl.program_id(1).to(tl.int64) * TILE + tl.arange(0, TILE)[None, :]  # [1, TILE]
    keep_row = row < batch
    keep = keep_row & (element < elements)
    index = row * elements + element

    at = row * row_stride
    if STEPS:
        at = tl.load(step + row * step_stride, keep_row, other=0)
    valid = keep_row & (at >= 0) & (at < rows)
    value = tl.load(x + index, keep, other=0).to(ACC)
    output = tl.load(model_output + index, keep, other=0).to(ACC)
    if GUIDED:
        other = tl.load(unconditional + index, keep, other=0).to(ACC)
        output = other + guidance * (output - other)
        if RESCALED:
            output = output * tl.load(factors + row, keep_row, other=0)
    data = _column(coefficients, at, valid, 0) * value + _column(coefficients, at, valid, 1) * output
    if THRESHOLD:
        t = tl.load(threshold + row, keep_row, other=1)
        data = tl.where(data > t, t, tl.where(data < -t, -t, data)) / t
    else:
        data = tl.where(data > high, high, tl.where(data < low, low, data))  # NaN stays
    after = _column(coefficients, at, valid, 2) * value + _column(coefficients, at, valid, 3) * data
    after += _column(coefficients, at, valid, 4) * output
    if PREVIOUS:
        k = _column(coefficients, at, valid, 5)
        after += k * tl.load(previous + index, keep & (k != 0), other=0).to(ACC)
    if NOISY:
        k = _column(coefficients, at, valid, 6)
        z = _noise(key, step, row, sample_offset, key_stride, step_stride, keep_row, STEPS, ROWS, TILE).to(ACC)
        if LEARNED:
            v = tl.load(log_variance + index, keep & (k != 0), other=0).to(ACC)
            log_std = _column(coefficients, at, valid, 7) + _column(coefficients, at, valid, 8) * v
            z = z * _triton.exp(log_std)
        after += tl.where(k == 0, 0.0, k * z)
    if RETURN_X0:
        tl.store(x0 + index, data.to(x0.dtype.element_ty), keep)
    tl.store(out + index, after.to(out.dtype.element_ty), keep)


_ACC = {torch.float32: tl.float32, torch.float64: tl.float64}


def diffusion_step_out(
    x: Tensor,
    model_output: Tensor,
    unconditional: Tensor,
    previous: Tensor,
    log_variance: Tensor,
    coefficients: Tensor,
    threshold: Tensor | None,
    key: Tensor | None,
    step: Tensor | None,
    guidance: float,
    rescale: float,
    low: float,
    high: float,
    return_x0: bool,
    sample_offset: int,
    out: Tensor,
    out_x0: Tensor,
) -> None:
    if not x.numel():
        return
    batch, elements = x.shape[0], x.shape[1:].numel()
    present = [tensor.shape == x.shape for tensor in (unconditional, previous, log_variance)]
    rescaled = present[0] and rescale != 0
    coefficients, wide = coefficients.contiguous(), _triton.wide(x)
    factors = x
    if rescaled:
        c, u = model_output.to(wide), unconditional.to(wide)
        ratio = reference.spread_ratio(c, reference.guided(c, u, guidance, 0.0))
        factors = (1 - rescale + rescale * ratio).contiguous()
    to = out if out.is_contiguous() else torch.empty(x.shape, dtype=x.dtype, device=x.device)
    to_x0 = out_x0 if out_x0.is_contiguous() else torch.empty(x.shape, dtype=x.dtype, device=x.device)
    tile = min(TILE, max(4, triton.next_power_of_2(elements)))
    grid = triton.cdiv(batch, TILE // tile), triton.cdiv(elements, tile)
    _step[grid](
        *(tensor.contiguous() for tensor in (x, model_output, unconditional, previous, log_variance)), coefficients,
        x if threshold is None else threshold.contiguous(), x if key is None else key.contiguous(),
        x if step is None else step.contiguous(), factors, to, to_x0, batch, elements, coefficients.shape[0],
        int(coefficients.shape[0] > 1), 0 if key is None or key.dim() == 0 else 1,
        0 if step is None or step.dim() == 0 else 1, sample_offset, guidance, low, high,
        GUIDED=present[0], RESCALED=rescaled, PREVIOUS=present[1], LEARNED=present[2], THRESHOLD=threshold is not None,
        NOISY=key is not None, STEPS=step is not None, RETURN_X0=return_x0, ACC=_ACC[wide], ROWS=TILE // tile,
        TILE=tile, **EXACT,
    )  # fmt: skip
    if to is not out:
        out.copy_(to)
    if return_x0 and to_x0 is not out_x0:
        out_x0.copy_(to_x0)


def diffusion_step(x: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    out_x0 = torch.empty(x.shape if rest[-2] else (0,), dtype=x.dtype, device=x.device)
    diffusion_step_out(x, *rest, out, out_x0)  # type: ignore[arg-type,call-arg]
    return out, out_x0


__all__ = ["diffusion_step", "diffusion_step_backward", "diffusion_step_out"]

_TENSORS = dict.fromkeys(("x", "model_output", "unconditional", "previous", "log_variance", "out", "x0"), "*bf16")
_TABLES = dict.fromkeys(("coefficients", "threshold", "factors"), "*fp32") | {"key": "*i64", "step": "*i64"}
_SIZES = dict.fromkeys(("batch", "elements", "rows", "row_stride", "key_stride", "step_stride", "sample_offset"), "i64")
_FLOATS = dict.fromkeys(("guidance", "low", "high"), "fp32")
AHEAD_OF_TIME = [
    AheadOfTime(
        _step,
        _TENSORS | _TABLES | _SIZES | _FLOATS,
        dict.fromkeys(("GUIDED", "RESCALED", "PREVIOUS", "LEARNED", "THRESHOLD", "NOISY", "STEPS", "RETURN_X0"), chosen)
        | {"ACC": tl.float32, "ROWS": 1, "TILE": TILE},
        EXACT,
    )
    for chosen in (False, True)
]
