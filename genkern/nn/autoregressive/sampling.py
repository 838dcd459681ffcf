"""Sampling by whole forward passes: one for every sub-pixel, or as many as a fixed point takes.

Both are functions of the weights and of the noise alone, and give the same sample: a pixel is ``draw(params, noise)``,
where ``params`` are what the model says of it given the pixels before. Neither needs to know what the model is made of.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Conditionals = Callable[[Tensor], Tensor]  # pixels [B, C, H, W] -> parameters [B, *, H, W] of every conditional
Draw = Callable[[Tensor, Tensor], Tensor]  # parameters and noise [B, *, H', W'] -> pixels [B, C, H', W']


@torch.no_grad()
def naive(
    conditionals: Conditionals, draw: Draw, x: Tensor, noise: Tensor, free: Tensor, *, joint: bool = False
) -> Tensor:
    """Draws in raster order, sub-pixels innermost, with one forward pass for each.

    Args:
        conditionals: what the model says of every pixel, given all pixels before it.
        draw: pixels from that and from noise.
        x: pixels, ``[B, C, H, W]``, of which those that are not free are kept.
        noise: ``[B, *, H, W]``, as `draw` takes it.
        free: which pixels are to be drawn, bool, ``[H, W]``.
        joint: `draw` gives all channels of a pixel at once from one pass (as a mixture of logistics does).
    """
    x = x.clone()
    for i, j in free.nonzero().tolist():
        at = (..., slice(i, i + 1), slice(j, j + 1))
        for channel in [slice(None)] if joint else range(x.shape[1]):
            x[:, channel, i, j] = draw(conditionals(x)[at], noise[at])[:, channel, 0, 0]
    return x


@torch.no_grad()
def jacobi(conditionals: Conditionals, draw: Draw, x: Tensor, noise: Tensor, free: Tensor) -> tuple[Tensor, int]:
    """Draws all pixels again and again, until nothing changes: the sample of `naive`, as a fixed point.

    After ``n`` passes the first ``n`` sub-pixels are right, so it ends; that it ends early is the point of it. Song et
    al. 2021 (arXiv:2002.03629).

    Returns:
        The sample, and how many passes it took.
    """
    passes = 0
    while True:
        again = torch.where(free, draw(conditionals(x), noise), x)
        passes += 1
        if torch.equal(again, x):
            return x, passes
        x = again
