"""Squeeze and unsqueeze on GPUs: each program moves tiles of sites with all that share their squares' rows."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._triton import AheadOfTime

TILE = 1024


# one program: TILE groups of FACTOR neighbours within a row of the large picture
@triton.jit
def _squeeze(source, target, groups, channels, height, width, FACTOR: tl.constexpr, ORDERED: tl.constexpr,
             INVERSE: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    index = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)  # [TILE], over [B, C, H, W / f]
    keep = index < groups
    small = width // FACTOR
    w, row = index % small, index // small
    y, plane = row % height, row // height
    c, b = plane % channels, plane // channels
    h, i = y // FACTOR, y % FACTOR
    for j in tl.static_range(FACTOR):
        k = (i * FACTOR + j) * channels + c if ORDERED else (c * FACTOR + i) * FACTOR + j
        large = row * width + w * FACTOR + j
        squeezed = ((b * channels * FACTOR * FACTOR + k) * (height // FACTOR) + h) * small + w
        if INVERSE:
            tl.store(target + large, tl.load(source + squeezed, keep), keep)
        else:
            tl.store(target + squeezed, tl.load(source + large, keep), keep)


def squeeze(x: Tensor, factor: int, layout: str, inverse: bool) -> Tensor:
    batch, channels, height, width = x.shape
    f = factor
    if inverse:
        channels, height, width = channels // (f * f), height * f, width * f
    sizes = (batch, channels, height, width) if inverse else (batch, channels * f * f, height // f, width // f)
    out = torch.empty(sizes, dtype=x.dtype, device=x.device)
    if out.numel():
        groups = out.numel() // f
        _squeeze[(triton.cdiv(groups, TILE),)](x.contiguous(), out, groups, channels, height, width, FACTOR=f,
                                               ORDERED=layout == "ordered", INVERSE=inverse, TILE=TILE)  # fmt: skip
    return out


AHEAD_OF_TIME = [
    AheadOfTime(
        _squeeze,
        {"source": "*fp32", "target": "*fp32", **dict.fromkeys(("groups", "channels", "height", "width"), "i64")},
        {"FACTOR": 2, "ORDERED": False, "INVERSE": False, "TILE": TILE},
    )
]
