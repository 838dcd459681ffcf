"""Exponential moving average of a model's weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from ..models import GenerativeModel

Pair = tuple[list[Tensor], list[Tensor]]  # of the average, of the model


class Average:
    """``average = d average + (1 - d) weights`` with ``d = min(decay, (1 + n) / (10 + n))`` at update ``n``.

    The small ``d`` of the first updates forgets the initial weights, which a run of a few thousand steps otherwise
    would not. Buffers are copied.
    """

    def __init__(self, model: GenerativeModel, decay: float):
        self.decay = decay
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self._weights: Pair = list(self.model.parameters()), list(model.parameters())
        self._buffers: Pair = list(self.model.buffers()), list(model.buffers())

    @torch.no_grad()
    def update(self, n: int) -> None:
        """Takes in the weights that the model has after update ``n``."""
        decay = min(self.decay, (1 + n) / (10 + n))
        mine, current = self._weights
        torch._foreach_lerp_(mine, current, 1 - decay)
        if self._buffers[0]:
            torch._foreach_copy_(*self._buffers)
