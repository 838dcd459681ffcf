"""Lossless compression of pictures by an autoregressive model: the proof that its bits per dimension are bits.

>>> from genkern import models
>>> from genkern.experiments import coding, data
>>> model, x = models.build("gated-pixelcnn-small"), data.load("digits").test[:4]
>>> compressed = coding.compress(model, x)
>>> bool((coding.decompress(model, compressed, 4) == x).all())
True
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator

import torch
from torch import Tensor

from ..models.autoregressive._base import AutoregressiveModel

PRECISION = 24  # bits of a probability
LOWEST = 1 << 31  # of the coder's state, which holds 31 to 63 bits
WORD = 32


@torch.no_grad()
def compress(model: AutoregressiveModel, x: Tensor, y: Tensor | None = None) -> bytes:
    r"""Pictures in as many bits as :math:`-\log_2 p(x)` says, and 31 to 63 more for all of them together.

    An entropy coder (rANS; Duda 2013, arXiv:1311.2540) that is driven by the categoricals of `model`, one for every
    sub-pixel.

    Args:
        model: any autoregressive model with logits of the levels.
        x: integer pixels, ``[N, C, H, W]``.
        y: labels, ``[N]``, for a class-conditional model; they are not part of the code.
    """
    model.eval()
    table, levels = _frequencies(model, model.logits(x, y)), x.long()
    steps = [(first, size) for at in _order(model) for first, size in _intervals(table, levels, at)]
    state, words = LOWEST, []
    for first, size in reversed(steps):  # what is decoded first is coded last
        if state >= (LOWEST >> PRECISION << WORD) * size:
            words.append(state & (2**WORD - 1))
            state >>= WORD
        state = (state // size << PRECISION) + state % size + first
    return struct.pack(f"<Q{len(words)}I", state, *reversed(words))


@torch.no_grad()
def decompress(model: AutoregressiveModel, code: bytes, n: int, y: Tensor | None = None) -> Tensor:
    """The ``n`` pictures of `compress`, from one forward pass for every sub-pixel."""
    model.eval()
    state, *words = struct.unpack(f"<Q{(len(code) - 8) // 4}I", code)
    words.reverse()
    x = torch.zeros(n, *model.config.shape, dtype=model.pixel_dtype, device=next(model.parameters()).device)
    for c, i, j in _order(model):
        table = _frequencies(model, model.logits(x, y)[:, :, c : c + 1, i : i + 1, j : j + 1])[..., 0, 0, 0]
        for sample, bounds in enumerate(table.tolist()):
            slot = state & (2**PRECISION - 1)
            level = _find(bounds, slot)
            state = (bounds[level + 1] - bounds[level]) * (state >> PRECISION) + slot - bounds[level]
            if state < LOWEST:
                state = state << WORD | words.pop()
            x[sample, c, i, j] = level
    return x


def bits(model: AutoregressiveModel, code: bytes, n: int) -> float:
    """Bits per dimension of a code of ``n`` pictures."""
    channels, height, width = model.config.shape
    return 8 * len(code) / (n * channels * height * width)


def _order(model: AutoregressiveModel) -> Iterator[tuple[int, int, int]]:
    """Raster order, sub-pixels innermost."""
    channels, height, width = model.config.shape
    return ((c, i, j) for i in range(height) for j in range(width) for c in range(channels))


def _frequencies(model: AutoregressiveModel, logits: Tensor) -> Tensor:
    """Bounds of every level's interval of [0, 2^24), ``[N, levels + 1, *]``; none is empty.

    Logits are rounded first, so that encoder and decoder agree although they compute them from pictures that differ in
    later pixels.
    """
    levels = logits.shape[1]
    probabilities = ((logits.double() * 2**12).round() / 2**12).softmax(1).cumsum(1)
    inner = (probabilities[:, :-1] * (2**PRECISION - levels)).round().long()
    step = torch.arange(1, levels, device=logits.device).view(-1, *[1] * (logits.dim() - 2))
    bounds = torch.cat([torch.zeros_like(inner[:, :1]), inner + step], 1)
    return torch.cat([bounds, torch.full_like(bounds[:, :1], 2**PRECISION)], 1)


def _intervals(table: Tensor, levels: Tensor, at: tuple[int, int, int]) -> list[tuple[int, int]]:
    """Of one sub-pixel of all pictures: where its interval begins, and how long it is."""
    c, i, j = at
    bounds, level = table[:, :, c, i, j], levels[:, c, i, j, None]
    first, last = bounds.gather(1, level)[:, 0], bounds.gather(1, level + 1)[:, 0]
    return list(zip(first.tolist(), (last - first).tolist(), strict=True))


def _find(bounds: list[int], slot: int) -> int:
    """The level whose interval holds the number."""
    return bisect_right(bounds, slot) - 1
