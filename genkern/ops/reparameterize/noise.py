"""The definition together with the noise that it draws: that of an unfused call."""

from __future__ import annotations

from torch import Tensor

from .._library import wide_dtype
from ..random import normal
from . import reference


def reparameterize(
    mean: Tensor, logvar: Tensor, key: Tensor, per_element: bool, sample_offset: int
) -> tuple[Tensor, Tensor]:
    kl = reference.divergence(mean, logvar)
    return draw(mean, logvar, key, sample_offset), kl if per_element else reference.total(kl)


def reparameterize_prior(
    mean: Tensor,
    logvar: Tensor,
    prior_mean: Tensor,
    prior_logvar: Tensor,
    key: Tensor,
    per_element: bool,
    sample_offset: int,
) -> tuple[Tensor, Tensor]:
    kl = reference.divergence_from(mean, logvar, prior_mean, prior_logvar)
    return draw(mean, logvar, key, sample_offset), kl if per_element else reference.total(kl)


def draw(mean: Tensor, logvar: Tensor, key: Tensor, sample_offset: int) -> Tensor:
    noise = normal(key, mean.shape, sample_offset=sample_offset).to(wide_dtype(mean.dtype))
    return reference.sample(mean, logvar, noise).contiguous()
