"""Cached sampling: the traced networks, kept beside them, and the call of the op."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor, nn

from ...ops import causal_sample
from .tracing import Stack

_stacks: weakref.WeakKeyDictionary[nn.Module, dict[tuple[int, bool], Stack]] = weakref.WeakKeyDictionary()


def stack_of(network: nn.Module, sub_pixels: int, conditional: bool) -> Stack:
    """The network as a program; traced once, while its weights are read anew for every sample."""
    known = _stacks.setdefault(network, {})
    if (sub_pixels, conditional) not in known:
        known[sub_pixels, conditional] = Stack(network, sub_pixels, conditional=conditional)
    return known[sub_pixels, conditional]


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
    impl: str = "auto",
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
        impl: ``"torch"`` for the same in PyTorch.

    Raises:
        Untraceable: for a network with other parts than causal layers.
    """
    stack = stack_of(network, x.shape[1], condition is not None)
    conditions = None if condition is None else stack.condition_vectors(network, condition)
    weights = stack.weights(network)
    weights = weights if weights.dtype == torch.float64 else weights.float()
    options = {"levels": levels, "conditions": conditions, "free": free, "temperature": temperature, "impl": impl}
    return causal_sample(x.int(), weights, noise, stack.code, **options).to(x.dtype)
