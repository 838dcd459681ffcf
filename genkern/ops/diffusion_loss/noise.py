"""The definition together with the noise that it draws."""

from __future__ import annotations

from torch import Tensor

from ..random import normal
from . import reference


def diffusion_loss(
    output: Tensor, x0: Tensor, of_x0: Tensor, of_noise: Tensor, key: Tensor, sample_offset: int
) -> Tensor:
    noise = normal(key, output.shape, sample_offset=sample_offset).to(output.dtype)
    return reference.diffusion_loss(output, x0, of_x0, of_noise, noise)
