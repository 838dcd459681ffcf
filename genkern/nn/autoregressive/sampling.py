"""Sampling by whole forward passes: one for every sub-pixel, or as many as a fixed point takes.

Both are functions of the weights and of the noise alone, and give the same sample: a pixel is ``draw(params, noise)``,
where ``params`` are what the model says of it given the pixels before. Neither needs to know what the model is made of.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Conditionals = Callable[[Tensor], Tensor]  # pixels [B, C, H, W] -> parameters [B, *, H, W] of every conditional
Progress = Callable[[int, int], None]  # how much is done, and how much there is: places of a picture, or pictures
Draw = Callable[[Tensor, Tensor], Tensor]  # parameters and noise [B, *, H', W'] -> pixels [B, C, H', W']


@torch.no_grad()
def naive(
    conditionals: Conditionals,
    draw: Draw,
    x: Tensor,
    noise: Tensor,
    free: Tensor,
    *,
    joint: bool = False,
    progress: Progress | None = None,
) -> Tensor:
    """Draws in raster order, sub-pixels innermost, with one forward pass for each.

    Args:
        conditionals: what the model says of every pixel, given all pixels before it.
        draw: pixels from that and from noise.
        x: pixels, ``[B, C, H, W]``, of which those that are not free are kept.
        noise: ``[B, *, H, W]``, as `draw` takes it.
        free: which pixels are to be drawn, bool, ``[H, W]``.
        joint: `draw` gives all channels of a pixel at once from one pass (as a mixture of logistics does).
        progress: called after each pixel.
    """
    x = x.clone()
    places = free.nonzero().tolist()
    for done, (i, j) in enumerate(places, 1):
        at = (..., slice(i, i + 1), slice(j, j + 1))
        for channel in [slice(None)] if joint else range(x.shape[1]):
            x[:, channel, i, j] = draw(conditionals(x)[at], noise[at])[:, channel, 0, 0]
        if progress is not None:
            progress(done, len(places))
    return x


@torch.no_grad()
def jacobi(
    conditionals: Conditionals, draw: Draw, x: Tensor, noise: Tensor, free: Tensor, progress: Progress | None = None
) -> tuple[Tensor, int]:
    """Draws all pixels again and again, until nothing changes: the sample of `naive`, as a fixed point.

    After ``n`` passes the first ``n`` sub-pixels are right, so it ends; that it ends early is the point of it. Song et
    al. 2021 (arXiv:2002.03629). ``progress`` is told how many pixels no pass will change any more.

    Returns:
        The sample, and how many passes it took.
    """
    passes = 0
    while True:
        again = torch.where(free, draw(conditionals(x), noise), x)
        passes += 1
        if progress is not None:
            changed = (again != x).any(0).any(0)[free]  # before the first that changed, all are as they will be
            progress(int((changed.cumsum(0) == 0).sum()), len(changed))
        if torch.equal(again, x):
            return x, passes
        x = again
