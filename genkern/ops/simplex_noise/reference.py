"""OpenSimplex noise of 2014 in plain PyTorch, in float64: the definition that every kernel is compared with.

Lattice points are offsets (i, j[, k]) from a cell, whose position is squished: d - (i + j + k) squish - (i, j, k).
Steps are in the original's order, so that ties between points are decided as there.
"""

from __future__ import annotations

import torch
from torch import Tensor

STRETCH2, SQUISH2, NORM2 = -0.211324865405187, 0.366025403784439, 47
STRETCH3, SQUISH3, NORM3 = -1 / 6, 1 / 3, 103
OFFSETS2 = ((0, 0), (1, 0), (0, 1), (1, 1), (1, -1), (-1, 1), (2, 0), (0, 2))
GRADIENTS2 = ((5, 2), (2, 5), (-5, 2), (-2, 5), (5, -2), (2, -5), (-5, -2), (-2, -5))
GRADIENTS3 = tuple(
    (sx * x, sy * y, sz * z)
    for sz in (1, -1) for sy in (1, -1) for sx in (-1, 1) for x, y, z in ((11, 4, 4), (4, 11, 4), (4, 4, 11))
)  # fmt: skip

Point = tuple[Tensor, Tensor, Tensor]


def permutations(seeds: Tensor) -> Tensor:
    """[B, 256]: shuffles by a 64-bit linear congruence."""

    def after(seed: Tensor) -> Tensor:
        return seed * 6364136223846793005 + 1442695040888963407

    source = torch.arange(256, device=seeds.device).repeat(seeds.shape[0], 1)
    columns: list[Tensor] = [source[:, 0]] * 256
    seed = after(after(after(seeds)))
    for i in range(255, -1, -1):
        seed = after(seed)
        chosen = torch.remainder(seed + 31, i + 1).unsqueeze(1)
        columns[i] = source.gather(1, chosen).squeeze(1)
        source = source.scatter(1, chosen, source[:, i : i + 1])
    return torch.stack(columns, 1)


def look_up(permutation: Tensor, index: Tensor) -> Tensor:
    """permutation[b, index mod 256] of [B, 256] and [B, *]."""
    return permutation.gather(1, (index & 255).flatten(1)).view(index.shape)


def attenuated(squares: Tensor, along: Tensor) -> Tensor:
    return (2 - squares).clamp(min=0) ** 4 * along


def noise2(permutation: Tensor, x: Tensor, y: Tensor) -> Tensor:
    stretch = (x + y) * STRETCH2
    xb, yb = (x + stretch).floor(), (y + stretch).floor()
    squish = (xb + yb) * SQUISH2
    dx0, dy0, xi, yi = x - (xb + squish), y - (yb + squish), xb.long(), yb.long()
    gradients = torch.tensor(GRADIENTS2, dtype=x.dtype, device=x.device)
    value = torch.zeros_like(x)
    for i, j in OFFSETS2:
        dx, dy = dx0 - i - (i + j) * SQUISH2, dy0 - j - (i + j) * SQUISH2
        g = gradients[(look_up(permutation, look_up(permutation, xi + i) + yi + j) & 14) >> 1]
        value = value + attenuated(dx * dx + dy * dy, g[..., 0] * dx + g[..., 1] * dy)
    return value / NORM2


def first_of(bits: Tensor) -> Point:
    """The first set bit of three, as one of the axes."""
    x = bits & 1
    y = (1 - x) & (bits >> 1)
    return x, y, 1 - x - y


def axes_of(bits: Tensor) -> Point:
    return bits & 1, (bits >> 1) & 1, bits >> 2


def choose(condition: Tensor, ours: Point, theirs: Point) -> Point:
    a, b, c = (torch.where(condition, left, right) for left, right in zip(ours, theirs, strict=True))
    return a, b, c


def further_points(u: Tensor, v: Tensor, w: Tensor, total: Tensor) -> tuple[Point, Point]:
    """The two points that the original adds to those around the cell, by the nearest ones."""
    one, two, four = (torch.full_like(u, n, dtype=torch.int64) for n in (1, 2, 4))

    # in the tetrahedron at (0, 0, 0): a and b are the two closest axes
    b_is_z, a_is_z = (u >= v) & (w > v), (u < v) & (w > u)
    a_score, b_score = torch.where(a_is_z, w, u), torch.where(b_is_z, w, v)
    a, b = torch.where(a_is_z, four, one), torch.where(b_is_z, four, two)
    origin_is_near = (1 - total > a_score) | (1 - total > b_score)
    x, y, z = axes_of(torch.where(b_score > a_score, b, a))
    p, q, r = axes_of(a | b)
    low0 = choose(origin_is_near, (x - y - z, y - x, z), (p, q, r))
    low1 = choose(origin_is_near, (x, y - z, z - x - y), (2 * p - 1, 2 * q - 1, 2 * r - 1))

    # in the tetrahedron at (1, 1, 1): the same from the other side
    b_no_z, a_no_z = (u <= v) & (w < v), (u > v) & (w < u)
    a_score, b_score = torch.where(a_no_z, w, u), torch.where(b_no_z, w, v)
    a, b = torch.where(a_no_z, 3 * one, 6 * one), torch.where(b_no_z, 3 * one, 5 * one)
    corner_is_near = (3 - total < a_score) | (3 - total < b_score)
    x, y, z = axes_of(torch.where(b_score < a_score, b, a))
    p, q, r = axes_of(a & b)
    high0 = choose(corner_is_near, (2 * x, y * (2 - x), z), (p, q, r))
    high1 = choose(corner_is_near, (x, y * (1 + x), 2 * z), (2 * p, 2 * q, 2 * r))

    # in the octahedron between: the closest two of six points, and on which side they lie
    a_far, b_far, c_far = u + v > 1, u + w > 1, v + w > 1
    a_score, b_score, score = ((sum_of_two - 1).abs() for sum_of_two in (u + v, u + w, v + w))
    a, b, c = (
        torch.where(far, there * one, here * one) for far, there, here in ((a_far, 3, 4), (b_far, 5, 2), (c_far, 6, 1))
    )
    for_a, for_b = (a_score <= b_score) & (a_score < score), (a_score > b_score) & (b_score < score)
    a, a_far = torch.where(for_a, c, a), torch.where(for_a, c_far, a_far)
    b, b_far = torch.where(for_b, c, b), torch.where(for_b, c_far, b_far)
    same, side = a_far == b_far, a_far.long()
    missing = first_of(~torch.where(a_far, a, b) & 7)
    x, y, z = first_of(torch.where(same, torch.where(a_far, a & b, ~(a | b) & 7), torch.where(a_far, b, a)))
    middle0 = choose(same, (side, side, side), (1 - 2 * missing[0], 1 - 2 * missing[1], 1 - 2 * missing[2]))
    middle1 = choose(same & ~a_far, (1 - 2 * x, 1 - 2 * y, 1 - 2 * z), (2 * x, 2 * y, 2 * z))

    low, high = total <= 1, total >= 2
    first = choose(low, low0, choose(high, high0, middle0))
    return first, choose(low, low1, choose(high, high1, middle1))


def noise3(permutation: Tensor, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    stretch = (x + y + z) * STRETCH3
    xs, ys, zs = x + stretch, y + stretch, z + stretch
    xb, yb, zb = xs.floor(), ys.floor(), zs.floor()
    squish = (xb + yb + zb) * SQUISH3
    position = x - (xb + squish), y - (yb + squish), z - (zb + squish)
    u, v, w = xs - xb, ys - yb, zs - zb
    total = u + v + w
    low, high = total <= 1, total >= 2
    zero = torch.zeros_like(xb, dtype=torch.int64)

    def fixed(i: int, j: int, k: int) -> Point:
        return zero + i, zero + j, zero + k

    always = torch.ones_like(low)
    points = [
        *((~high, fixed(*p)) for p in ((1, 0, 0), (0, 1, 0), (0, 0, 1))),
        *((~low, fixed(*p)) for p in ((1, 1, 0), (1, 0, 1), (0, 1, 1))),
        (low, fixed(0, 0, 0)),
        (high, fixed(1, 1, 1)),
        *((always, point) for point in further_points(u, v, w, total)),
    ]
    gradients = torch.tensor(GRADIENTS3, dtype=x.dtype, device=x.device)
    value = torch.zeros_like(u)
    for counts, (i, j, k) in points:
        skew = (i + j + k).to(x.dtype) * SQUISH3
        dx, dy, dz = (d - offset - skew for d, offset in zip(position, (i, j, k), strict=True))
        hashed = look_up(permutation, look_up(permutation, xb.long() + i) + yb.long() + j)
        g = gradients[look_up(permutation, hashed + zb.long() + k) % 24]
        term = attenuated(dx * dx + dy * dy + dz * dz, g[..., 0] * dx + g[..., 1] * dy + g[..., 2] * dz)
        value = value + torch.where(counts, term, 0.0)
    return value / NORM3


def simplex_noise(
    seeds: Tensor, t: Tensor | None, height: int, width: int, octaves: int, persistence: float, frequency: float,
    dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    permutation = permutations(seeds)
    device = seeds.device
    x = torch.arange(width, dtype=torch.float64, device=device).expand(seeds.shape[0], height, width)
    y = torch.arange(height, dtype=torch.float64, device=device).unsqueeze(1).expand_as(x)
    field = torch.zeros_like(x)
    for k in range(octaves):
        f = frequency / 2**k
        if t is None:
            octave = noise2(permutation, x / f, y / f)
        else:
            octave = noise3(permutation, x / f, y / f, (t / f).view(-1, 1, 1).expand_as(x))
        field = field + persistence**k * octave
    return field.to(dtype)
