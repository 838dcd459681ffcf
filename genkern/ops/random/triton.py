"""Counter-based random numbers on GPU. Launched without fusion into fma: the bits are those of reference.py."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._triton import AheadOfTime

BLOCK = 256  # quads of a program: 1024 elements
EXACT = {"enable_fp_fusion": False}


@triton.jit
def _uniform(word):
    return ((word >> 9).to(tl.int32).to(tl.float32) + 0.5) * 1.1920928955078125e-07


@triton.jit
def _log(u):
    shifted = u.to(tl.int32, bitcast=True) - 0x3F3504F3
    k = (shifted >> 23).to(tl.float32)
    f = ((shifted & 0x007FFFFF) + 0x3F3504F3).to(tl.float32, bitcast=True) - 1.0
    p = 7.0376836292e-2 * f + -1.1514610310e-1
    p = p * f + 1.1676998740e-1
    p = p * f + -1.2420140846e-1
    p = p * f + 1.4249322787e-1
    p = p * f + -1.6668057665e-1
    p = p * f + 2.0000714765e-1
    p = p * f + -2.4999993993e-1
    p = p * f + 3.3333331174e-1
    return (f + (p * f - 0.5) * (f * f)) + k * 0.69314718056


@triton.jit
def _box_muller(radius, angle):
    u = ((radius >> 1).to(tl.int32).to(tl.float32) + 0.5) * 4.656612873077393e-10
    r = tl.sqrt_rn(_log(u) * -2.0)
    t = (angle << 2).to(tl.int32, bitcast=True).to(tl.float32) * 3.6572951981e-10
    z = t * t
    sine = ((z * -1.9515295891e-4 + 8.3321608736e-3) * z - 1.6666654611e-1) * z * t + t
    cosine = (z * 2.443315711809948e-5 - 1.388731625493765e-3) * z + 4.166664568298827e-2
    cosine = cosine * (z * z) - z * 0.5 + 1.0
    cosine = tl.where((angle >> 31) != 0, -cosine, cosine)
    swap = ((angle >> 30) & 1) != 0
    return r * tl.where(swap, sine, cosine), r * tl.where(swap, cosine, sine)


# One program: BLOCK quads of the row-major [samples, ceil(elements / 4)].
@triton.jit
def draw_kernel(key, out, samples, elements, sample_offset, below_one, NORMAL: tl.constexpr, BLOCK: tl.constexpr):
    quads = (elements + 3) // 4
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    row, quad = index // quads, index % quads
    sample = row + sample_offset
    seed = tl.load(key).to(tl.uint64, bitcast=True)
    zero = tl.zeros((BLOCK,), tl.uint32)
    x, y, z, w = tl.philox(seed, quad.to(tl.uint32), zero, sample.to(tl.uint32), (sample >> 32).to(tl.uint32))
    if NORMAL:
        a, b = _box_muller(x, y)
        c, d = _box_muller(z, w)
    else:
        a, b = tl.minimum(_uniform(x), below_one), tl.minimum(_uniform(y), below_one)
        c, d = tl.minimum(_uniform(z), below_one), tl.minimum(_uniform(w), below_one)
    values = tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), (BLOCK, 4))  # [quad, element of the quad]
    element = 4 * quad[:, None] + tl.arange(0, 4)[None, :]
    keep = (row[:, None] < samples) & (element < elements)
    tl.store(out + row[:, None] * elements + element, values.to(out.dtype.element_ty), mask=keep)


# One program: BLOCK keys.
@triton.jit
def fold_in_kernel(keys, numbers, out, count, DOMAIN: tl.constexpr, BLOCK: tl.constexpr):
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    keep = index < count
    key = tl.load(keys + index, mask=keep, other=0)
    number = tl.load(numbers + index, mask=keep, other=0)
    x, y, _, _ = tl.philox(
        key.to(tl.uint64, bitcast=True),
        tl.zeros((BLOCK,), tl.uint32),
        tl.full((BLOCK,), DOMAIN, tl.uint32),
        number.to(tl.uint32),
        (number >> 32).to(tl.uint32),
    )
    derived = x.to(tl.uint64) | (y.to(tl.uint64) << 32)
    tl.store(out + index, derived.to(tl.int64, bitcast=True), mask=keep)


def _draw(normal: bool, key: Tensor, samples: int, elements: int, dtype: torch.dtype, sample_offset: int) -> Tensor:
    out = torch.empty((samples, elements), dtype=dtype, device=key.device)
    if out.numel():
        programs = triton.cdiv(samples * ((elements + 3) // 4), BLOCK)
        below_one = 1.0 - torch.finfo(dtype).eps / 2 if dtype != torch.float64 else 1.0
        draw_kernel[(programs,)](key, out, samples, elements, sample_offset, below_one, normal, BLOCK, **EXACT)
    return out


def random_normal(key: Tensor, samples: int, elements: int, dtype: torch.dtype, sample_offset: int) -> Tensor:
    return _draw(True, key, samples, elements, dtype, sample_offset)


def random_uniform(key: Tensor, samples: int, elements: int, dtype: torch.dtype, sample_offset: int) -> Tensor:
    return _draw(False, key, samples, elements, dtype, sample_offset)


def random_fold_in(key: Tensor, number: Tensor, domain: int) -> Tensor:
    keys, numbers = key.contiguous(), number.contiguous()
    out = torch.empty_like(keys)
    if out.numel():
        programs = triton.cdiv(out.numel(), BLOCK)
        fold_in_kernel[(programs,)](keys, numbers, out, out.numel(), domain, BLOCK, **EXACT)
    return out


_DRAW = {"key": "*i64", "samples": "i64", "elements": "i64", "sample_offset": "i64", "below_one": "fp32"}
_KEYS = {"keys": "*i64", "numbers": "*i64", "out": "*i64", "count": "i64"}
AHEAD_OF_TIME = [
    AheadOfTime(draw_kernel, _DRAW | {"out": "*fp32"}, {"NORMAL": True, "BLOCK": BLOCK}, EXACT),
    AheadOfTime(draw_kernel, _DRAW | {"out": "*bf16"}, {"NORMAL": False, "BLOCK": BLOCK}, EXACT),
    AheadOfTime(fold_in_kernel, _KEYS, {"DOMAIN": 1, "BLOCK": BLOCK}, EXACT),
]
