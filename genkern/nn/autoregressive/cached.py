"""Sampling with a cache: networks as programs, kept beside them, and the calls of the two ways to run these."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor, nn

from ...ops import causal_sample
from .layouts import Untraceable
from .sampling import Progress
from .tracing import Stack
from .wavefront import wavefront

METHODS = ("cached", "wavefront")
PARTS = 10  # of a batch whose progress is told
Kind = tuple[int, str, bool, int]
_stacks: weakref.WeakKeyDictionary[nn.Module, dict[Kind, Stack]] = weakref.WeakKeyDictionary()


def stack_of(
    network: nn.Module, sub_pixels: int, *, head: str = "categorical", conditional: bool = False, features: int = 0
) -> Stack:
    """The network as a program; traced once, while its weights are read anew for every sample."""
    known, kind = _stacks.setdefault(network, {}), (sub_pixels, head, conditional, features)
    if kind not in known:
        known[kind] = Stack(network, sub_pixels, head=head, conditional=conditional, features=features)
    return known[kind]


def is_traceable(
    network: nn.Module, sub_pixels: int, *, head: str = "categorical", conditional: bool = False, features: int = 0
) -> bool:
    """Whether the network is made of causal layers alone, so that it can be sampled with a cache."""
    try:
        stack_of(network, sub_pixels, head=head, conditional=conditional, features=features)
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
    head: str = "categorical",
    condition: Tensor | None = None,
    features: Tensor | None = None,
    temperature: float = 1.0,
    method: str = "cached",
    impl: str = "auto",
    progress: Progress | None = None,
) -> Tensor:
    """Draws in raster order with every activation computed once; the pixels of `naive`.

    Args:
        network: from pixels in [-1, 1] to what the head takes, ``[B, *, H, W]``, made of causal layers.
        x: pixels, ``[B, C, H, W]``, of which those that are not free are kept.
        noise: uniform numbers like ``x``; of a mixture ``[B, 1 + C, H, W]``.
        free: bool, ``[H, W]``.
        levels: of a pixel.
        head: ``"categorical"``, ``C * levels`` logits of a pixel; ``"mixture"``, ``3K`` or ``10K`` parameters of
            `genkern.ops.sample_discretized_mixture_logistics`; ``"quantile"``, C values in [0, 1], less one half.
        condition: as the network takes it, ``[B, *]``.
        features: a map that the network takes beside the picture, ``[B, F, H, W]``.
        temperature: divides the logits.
        method: ``"cached"``, pixel by pixel, by `genkern.ops.causal_sample`; or ``"wavefront"``.
        impl: ``"torch"`` for the first of these in PyTorch.
        progress: called after each tenth of the batch, or after each step of the wavefront.

    Raises:
        Untraceable: for a network with other parts than causal layers.
    """
    if method not in METHODS:
        raise ValueError(f"cached: method must be one of {METHODS}; got {method!r}.")
    channels = 0 if features is None else features.shape[1]
    stack = stack_of(network, x.shape[1], head=head, conditional=condition is not None, features=channels)
    weights = stack.weights(network)
    weights = weights if weights.dtype == torch.float64 else weights.float()
    conditions = None
    if condition is not None:
        conditions = stack.condition_vectors(network, condition).to(weights.dtype)
    given = None if features is None else features.to(weights.dtype).permute(0, 2, 3, 1)
    if method == "wavefront":
        return wavefront(
            stack.program, weights, x, noise.to(weights), free, levels=levels, conditions=conditions, features=given,
            temperature=temperature, progress=progress,
        )  # fmt: skip

    def drawn(part: slice) -> Tensor:
        return causal_sample(
            x[part].int(), weights, noise[part], stack.code, levels=levels, free=free, temperature=temperature,
            conditions=None if conditions is None else conditions[part],
            features=None if given is None else given[part], impl=impl,
        ).to(x.dtype)  # fmt: skip

    if progress is None or len(x) == 0:
        return drawn(slice(None))
    parts, size = [], -(-len(x) // PARTS)
    for first in range(0, len(x), size):
        parts.append(drawn(slice(first, first + size)))
        progress(min(first + size, len(x)), len(x))
    return torch.cat(parts)
