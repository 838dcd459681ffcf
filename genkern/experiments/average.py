"""Exponential moving average of a model's weights."""

from __future__ import annotations

import copy

import torch

from ..models import GenerativeModel


class Average:
    """``average = d average + (1 - d) weights`` with ``d = min(decay, (1 + n) / (10 + n))`` at update ``n``.

    The small ``d`` of the first updates forgets the initial weights, which a run of a few thousand steps otherwise
    would not. Buffers are copied.
    """

    def __init__(self, model: GenerativeModel, decay: float):
        self.decay = decay
        self.model = copy.deepcopy(model).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, model: GenerativeModel, n: int) -> None:
        decay = min(self.decay, (1 + n) / (10 + n))
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1 - decay)
        for mine, current in zip(self.model.buffers(), model.buffers(), strict=True):
            mine.copy_(current)
