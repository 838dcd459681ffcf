"""The definition together with the noise that it draws: that of an unfused call."""

from __future__ import annotations

from torch import Tensor

from .._library import wide_dtype
from ..random import uniform
from . import reference


def gumbel_softmax(logits: Tensor, key: Tensor, temperature: float, hard: bool, sample_offset: int) -> Tensor:
    noise = uniform(key, logits.shape, sample_offset=sample_offset).to(wide_dtype(logits.dtype))
    return reference.gumbel_softmax(logits, noise, temperature, hard)
