"""Entries of a state dict, and what is set from them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..actnorm import ActNorm

State = Mapping[str, Tensor]


def part(state: State, prefix: str) -> dict[str, Tensor]:
    """The entries under a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


@torch.no_grad()
def set_affine(layer: ActNorm, log_scale: Tensor, bias: Tensor, initialized: bool) -> ActNorm:
    layer.log_scale.copy_(log_scale)
    layer.bias.copy_(bias)
    if initialized:
        layer.mark_initialized()
    return layer
