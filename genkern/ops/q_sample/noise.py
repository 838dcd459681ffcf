"""The definition together with the noise that it draws."""

from __future__ import annotations

from torch import Tensor

from ..random import normal
from . import reference


def q_sample(x0: Tensor, alpha: Tensor, sigma: Tensor, key: Tensor, sample_offset: int) -> Tensor:
    noise = normal(key, x0.shape, sample_offset=sample_offset).to(x0.dtype)
    return reference.q_sample(x0, alpha, sigma, noise)
