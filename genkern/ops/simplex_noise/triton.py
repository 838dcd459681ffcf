"""Simplex noise on GPUs: one pass from the permutations to the fields; choices in float64, gradients in float32."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._triton import AheadOfTime

BLOCK = 256  # pixels of a program
LANES = 32  # samples of a program that shuffles: one to a thread of its only warp
EXACT = {"enable_fp_fusion": False}


# one program: LANES samples, each shuffled by a thread of its own, in memory
@triton.jit
def _shuffle(seeds, source, permutation, batch, LANES: tl.constexpr):
    lane = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    keep = lane < batch
    seed = tl.load(seeds + lane, keep, other=0)
    for _ in range(3):
        seed = seed * 6364136223846793005 + 1442695040888963407
    for step in range(256):
        i = 255 - step
        seed = seed * 6364136223846793005 + 1442695040888963407
        r = (seed + 31) % (i + 1)
        r = tl.where(r < 0, r + i + 1, r)
        chosen = tl.load(source + lane * 256 + r, keep, other=0)
        last = tl.load(source + lane * 256 + i, keep, other=0)
        tl.store(permutation + lane * 256 + i, chosen, keep)
        tl.store(source + lane * 256 + r, last, keep)


@triton.jit
def _look_up(permutation, index):
    return tl.load(permutation + (index & 255))


@triton.jit
def _attenuated(squares, along):
    attenuation = tl.maximum(2.0 - squares, 0.0)
    attenuation = attenuation * attenuation
    return attenuation * attenuation * along


@triton.jit
def _point2(permutation, xi, yi, dx0, dy0, I: tl.constexpr, J: tl.constexpr):  # noqa: E741
    dx = dx0 - I - (I + J) * 0.366025403784439
    dy = dy0 - J - (I + J) * 0.366025403784439
    p = _look_up(permutation, _look_up(permutation, xi + I) + yi + J) >> 1
    gx = tl.where((p & 1) == 0, 5, 2) * (1 - (p & 2))
    gy = tl.where((p & 1) == 0, 2, 5) * (1 - ((p & 4) >> 1))
    return _attenuated(dx * dx + dy * dy, gx.to(dx.dtype) * dx + gy.to(dx.dtype) * dy)


@triton.jit
def _noise2(permutation, x, y, ACC: tl.constexpr):
    stretch = (x + y) * -0.211324865405187
    xb = tl.floor(x + stretch)
    yb = tl.floor(y + stretch)
    squish = (xb + yb) * 0.366025403784439
    dx = (x - (xb + squish)).to(ACC)
    dy = (y - (yb + squish)).to(ACC)
    xi = xb.to(tl.int32)
    yi = yb.to(tl.int32)
    value = _point2(permutation, xi, yi, dx, dy, 0, 0) + _point2(permutation, xi, yi, dx, dy, 1, 0)
    value += _point2(permutation, xi, yi, dx, dy, 0, 1) + _point2(permutation, xi, yi, dx, dy, 1, 1)
    value += _point2(permutation, xi, yi, dx, dy, 1, -1) + _point2(permutation, xi, yi, dx, dy, -1, 1)
    return value + _point2(permutation, xi, yi, dx, dy, 2, 0) + _point2(permutation, xi, yi, dx, dy, 0, 2)


@triton.jit
def _point3(permutation, xi, yi, zi, dx0, dy0, dz0, i, j, k):
    squish = (i + j + k).to(dx0.dtype) * 0.3333333333333333
    dx = dx0 - i.to(dx0.dtype) - squish
    dy = dy0 - j.to(dx0.dtype) - squish
    dz = dz0 - k.to(dx0.dtype) - squish
    hashed = _look_up(permutation, _look_up(permutation, xi + i) + yi + j)
    p = _look_up(permutation, hashed + zi + k) % 24
    m = p // 3  # signs
    axis = p - 3 * m  # that of the long component
    gx = tl.where(axis == 0, 11, 4) * (2 * (m & 1) - 1)
    gy = tl.where(axis == 1, 11, 4) * (1 - (m & 2))
    gz = tl.where(axis == 2, 11, 4) * (1 - ((m & 4) >> 1))
    along = gx.to(dx.dtype) * dx + gy.to(dx.dtype) * dy + gz.to(dx.dtype) * dz
    return _attenuated(dx * dx + dy * dy + dz * dz, along)


@triton.jit
def _first_of(bits):
    """The first set bit of three, as one of the axes."""
    x = bits & 1
    y = (1 - x) & (bits >> 1)
    return x, y, 1 - x - y


@triton.jit
def _further_points(u, v, w, total):
    """The two points that the original adds to those around the cell: see `reference.further_points`."""
    # in the tetrahedron at (0, 0, 0): a and b are the two closest axes
    b_is_z = (u >= v) & (w > v)
    a_is_z = (u < v) & (w > u)
    a_score = tl.where(a_is_z, w, u)
    b_score = tl.where(b_is_z, w, v)
    a = tl.where(a_is_z, 4, 1)
    b = tl.where(b_is_z, 4, 2)
    near = (1.0 - total > a_score) | (1.0 - total > b_score)
    n = tl.where(b_score > a_score, b, a)
    x = n & 1
    y = (n >> 1) & 1
    z = n >> 2
    n = a | b
    p = n & 1
    q = (n >> 1) & 1
    r = n >> 2
    low_x0 = tl.where(near, x - y - z, p)
    low_y0 = tl.where(near, y - x, q)
    low_z0 = tl.where(near, z, r)
    low_x1 = tl.where(near, x, 2 * p - 1)
    low_y1 = tl.where(near, y - z, 2 * q - 1)
    low_z1 = tl.where(near, z - x - y, 2 * r - 1)

    # in the tetrahedron at (1, 1, 1): the same from the other side
    b_no_z = (u <= v) & (w < v)
    a_no_z = (u > v) & (w < u)
    a_score = tl.where(a_no_z, w, u)
    b_score = tl.where(b_no_z, w, v)
    a = tl.where(a_no_z, 3, 6)
    b = tl.where(b_no_z, 3, 5)
    near = (3.0 - total < a_score) | (3.0 - total < b_score)
    n = tl.where(b_score < a_score, b, a)
    x = n & 1
    y = (n >> 1) & 1
    z = n >> 2
    n = a & b
    p = n & 1
    q = (n >> 1) & 1
    r = n >> 2
    high_x0 = tl.where(near, 2 * x, p)
    high_y0 = tl.where(near, y * (2 - x), q)
    high_z0 = tl.where(near, z, r)
    high_x1 = tl.where(near, x, 2 * p)
    high_y1 = tl.where(near, y * (1 + x), 2 * q)
    high_z1 = tl.where(near, 2 * z, 2 * r)

    # in the octahedron between: the closest two of six points, and on which side they lie
    a_far = (u + v > 1.0).to(tl.int32)
    b_far = (u + w > 1.0).to(tl.int32)
    c_far = (v + w > 1.0).to(tl.int32)
    a_score = tl.abs(u + v - 1.0)
    b_score = tl.abs(u + w - 1.0)
    score = tl.abs(v + w - 1.0)
    a = 4 - a_far
    b = 2 + 3 * b_far
    c = 1 + 5 * c_far
    for_a = (a_score <= b_score) & (a_score < score)
    for_b = (a_score > b_score) & (b_score < score)
    a = tl.where(for_a, c, a)
    a_far = tl.where(for_a, c_far, a_far)
    b = tl.where(for_b, c, b)
    b_far = tl.where(for_b, c_far, b_far)
    same = a_far == b_far
    missing_x, missing_y, missing_z = _first_of((7 - tl.where(a_far == 1, a, b)) & 7)
    shared = tl.where(a_far == 1, a & b, 7 - (a | b))
    x, y, z = _first_of(tl.where(same, shared, tl.where(a_far == 1, b, a)))
    flip = same & (a_far == 0)

    low = total <= 1.0
    high = total >= 2.0
    x0 = tl.where(low, low_x0, tl.where(high, high_x0, tl.where(same, a_far, 1 - 2 * missing_x)))
    y0 = tl.where(low, low_y0, tl.where(high, high_y0, tl.where(same, a_far, 1 - 2 * missing_y)))
    z0 = tl.where(low, low_z0, tl.where(high, high_z0, tl.where(same, a_far, 1 - 2 * missing_z)))
    x1 = tl.where(low, low_x1, tl.where(high, high_x1, tl.where(flip, 1 - 2 * x, 2 * x)))
    y1 = tl.where(low, low_y1, tl.where(high, high_y1, tl.where(flip, 1 - 2 * y, 2 * y)))
    z1 = tl.where(low, low_z1, tl.where(high, high_z1, tl.where(flip, 1 - 2 * z, 2 * z)))
    return x0, y0, z0, x1, y1, z1


@triton.jit
def _noise3(permutation, x, y, z, ACC: tl.constexpr):
    stretch = (x + y + z) * -0.16666666666666666
    xs = x + stretch
    ys = y + stretch
    zs = z + stretch
    xb = tl.floor(xs)
    yb = tl.floor(ys)
    zb = tl.floor(zs)
    squish = (xb + yb + zb) * 0.3333333333333333
    dx = (x - (xb + squish)).to(ACC)
    dy = (y - (yb + squish)).to(ACC)
    dz = (z - (zb + squish)).to(ACC)
    xi = xb.to(tl.int32)
    yi = yb.to(tl.int32)
    zi = zb.to(tl.int32)
    u = xs - xb
    v = ys - yb
    w = zs - zb
    total = u + v + w
    low = (total <= 1.0).to(tl.int32)
    high = (total >= 2.0).to(tl.int32)
    zero = tl.zeros_like(xi)
    one = zero + 1
    rest = one - high
    # the axes, or at (1, 1, 1) the edges; the corner, or (1, 1, 0); the other two edges
    value = _point3(permutation, xi, yi, zi, dx, dy, dz, one, high, zero)
    value += _point3(permutation, xi, yi, zi, dx, dy, dz, high, rest, high)
    value += _point3(permutation, xi, yi, zi, dx, dy, dz, zero, high, one)
    value += _point3(permutation, xi, yi, zi, dx, dy, dz, one - low, one - low, high)
    edges = _point3(permutation, xi, yi, zi, dx, dy, dz, one, zero, one)
    edges += _point3(permutation, xi, yi, zi, dx, dy, dz, zero, one, one)
    value += tl.where(low + high == 0, edges, 0.0)
    x0, y0, z0, x1, y1, z1 = _further_points(u, v, w, total)
    value += _point3(permutation, xi, yi, zi, dx, dy, dz, x0, y0, z0)
    return value + _point3(permutation, xi, yi, zi, dx, dy, dz, x1, y1, z1)


# one program: BLOCK pixels of one sample; scalars: frequency and persistence, in float64
@triton.jit
def _fields(permutation, t, scalars, out, height, width, octaves, THREE: tl.constexpr, ACC: tl.constexpr,
            BLOCK: tl.constexpr):  # fmt: skip
    b = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    keep = pixel < height * width
    y = (pixel // width).to(tl.float64)
    x = (pixel % width).to(tl.float64)
    f = tl.load(scalars)
    persistence = tl.load(scalars + 1)
    amplitude = persistence * 0.0 + 1.0
    total = tl.zeros((BLOCK,), ACC)
    for _ in range(octaves):
        if THREE:
            z = tl.load(t + b) / f + tl.zeros((BLOCK,), tl.float64)
            total += _noise3(permutation + b * 256, x / f, y / f, z, ACC) * (amplitude / 103).to(ACC)
        else:
            total += _noise2(permutation + b * 256, x / f, y / f, ACC) * (amplitude / 47).to(ACC)
        amplitude *= persistence
        f *= 0.5
    tl.store(out + b * height * width + pixel, total, keep)


def permutations(seeds: Tensor) -> Tensor:
    source = torch.arange(256, dtype=torch.int32, device=seeds.device).repeat(seeds.shape[0], 1)
    permutation = torch.empty_like(source)
    grid = (triton.cdiv(seeds.shape[0], LANES),)
    _shuffle[grid](seeds.contiguous(), source, permutation, seeds.shape[0], LANES=LANES, num_warps=1)
    return permutation


def simplex_noise(
    seeds: Tensor, t: Tensor | None, height: int, width: int, octaves: int, persistence: float, frequency: float,
    dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    out = torch.empty((seeds.shape[0], height, width), dtype=dtype, device=seeds.device)
    if out.numel():
        scalars = torch.full((2,), frequency, dtype=torch.float64, device=seeds.device)
        scalars[1:].fill_(persistence)
        acc = tl.float64 if dtype == torch.float64 else tl.float32
        grid = triton.cdiv(height * width, BLOCK), seeds.shape[0]
        table = permutations(seeds)
        third = scalars if t is None else t.contiguous()
        _fields[grid](
            table, third, scalars, out, height, width, octaves, THREE=t is not None, ACC=acc, BLOCK=BLOCK, **EXACT
        )
    return out


_FIELDS = {"permutation": "*i32", "t": "*fp64", "scalars": "*fp64", "out": "*fp32", "height": "i64", "width": "i64",
           "octaves": "i32"}  # fmt: skip
AHEAD_OF_TIME = [
    AheadOfTime(
        _shuffle,
        {"seeds": "*i64", "source": "*i32", "permutation": "*i32", "batch": "i64"},
        {"LANES": LANES},
        {"num_warps": 1},
    ),
    AheadOfTime(_fields, _FIELDS, {"THREE": False, "ACC": tl.float32, "BLOCK": BLOCK}, EXACT),
    AheadOfTime(_fields, _FIELDS, {"THREE": True, "ACC": tl.float32, "BLOCK": BLOCK}, EXACT),
]
