"""Sampling with a cache: networks as programs, kept beside them, and the calls of the two ways to run these."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor, nn

from ...ops import causal_sample
from .sampling import Progress
from .tracing import Stack, Untraceable
from .wavefront import wavefront

METHODS = ("cached", "wavefront")
PARTS = 10  # of a batch whose progress is told
_stacks: weakref.WeakKeyDictionary[nn.Module, dict[tuple[int, bool], Stack]] = weakref.WeakKeyDictionary()


def stack_of(network: nn.Module, sub_pixels: int, *, conditional: bool = False) -> Stack:
    """The network as a program; traced once, while its weights are read anew for every sample."""
    known = _stacks.setdefault(network, {})
    if (sub_pixels, conditional) not in known:
        known[sub_pixels, conditional] = Stack(network, sub_pixels, conditional=conditional)
    return known[sub_pixels, conditional]


def is_traceable(network: nn.Module, sub_pixels: int, *, conditional: bool = False) -> bool:
    """Whether the network is made of causal layers alone, so that it can be sampled with a cache."""
    try:
        stack_of(network, sub_pixels, conditional=conditional)
    except Untraceable:
        return False
    return True


@torch.no_grad()
def cached(
    network: nn.Module,
    x: Tensor,
    noise: Tensor,
    free: Tensor,
    *,
    levels: int,
    condition: Tensor | None = None,
    temperature: float = 1.0,
    method: str = "cached",
    impl: str = "auto",
    progress: Progress | None = None,
) -> Tensor:
    """Draws in raster order with every activation computed once; the pixels of `naive`.

    Args:
        network: from pixels in [-1, 1] to logits, ``[B, C * levels, H, W]``, made of causal layers.
        x: pixels, ``[B, C, H, W]``, of which those that are not free are kept.
        noise: uniform numbers like ``x``.
        free: bool, ``[H, W]``.
        levels: of a pixel.
        condition: as the network takes it, ``[B, *]``.
        temperature: divides the logits.
        method: ``"cached"``, pixel by pixel, by `genkern.ops.causal_sample`; or ``"wavefront"``.
        impl: ``"torch"`` for the first of these in PyTorch.
        progress: called after each tenth of the batch, or after each step of the wavefront.

    Raises:
        Untraceable: for a network with other parts than causal layers.
    """
    if method not in METHODS:
        raise ValueError(f"cached: method must be one of {METHODS}; got {method!r}.")
    stack = stack_of(network, x.shape[1], conditional=condition is not None)
    weights = stack.weights(network)
    weights = weights if weights.dtype == torch.float64 else weights.float()
    conditions = None
    if condition is not None:
        conditions = stack.condition_vectors(network, condition).to(weights.dtype)
    if method == "wavefront":
        return wavefront(
            stack.program, weights, x, noise.to(weights), free,
            levels=levels, conditions=conditions, temperature=temperature, progress=progress,
        )  # fmt: skip

    def drawn(part: slice) -> Tensor:
        return causal_sample(
            x[part].int(), weights, noise[part], stack.code, levels=levels, free=free, temperature=temperature,
            conditions=None if conditions is None else conditions[part], impl=impl,
        ).to(x.dtype)  # fmt: skip

    if progress is None or len(x) == 0:
        return drawn(slice(None))
    parts, size = [], -(-len(x) // PARTS)
    for first in range(0, len(x), size):
        parts.append(drawn(slice(first, first + size)))
        progress(min(first + size, len(x)), len(x))
    return torch.cat(parts)
