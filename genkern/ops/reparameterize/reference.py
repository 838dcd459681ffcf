"""Draws of diagonal Gaussians and their divergence in plain PyTorch: the definition that kernels are compared with."""

import torch
from torch import Tensor

CEILING = (
    60.0  # of a log-variance; above it exponentials go on as their tangents: no overflow, slopes of the right sign
)


def exponential(x: Tensor, ceiling: float = CEILING) -> Tensor:
    bounded = x.clamp(max=ceiling)
    return torch.where(x > ceiling, torch.exp(bounded.detach()) * (1 + x - bounded.detach()), torch.exp(bounded))


def exponential_minus_1(x: Tensor) -> Tensor:
    return torch.where(x > CEILING, exponential(x) - 1, torch.expm1(x.clamp(max=CEILING)))


def sample(mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    return mean + exponential(0.5 * logvar, 0.5 * CEILING) * noise


def divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """Of each element, from the unit prior."""
    return 0.5 * (mean * mean + (exponential_minus_1(logvar) - logvar))


def divergence_from(mean: Tensor, logvar: Tensor, prior_mean: Tensor, prior_logvar: Tensor) -> Tensor:
    d, r = mean - prior_mean, logvar - prior_logvar
    return 0.5 * (d * d * exponential(-prior_logvar) + (exponential_minus_1(r) - r))


def total(terms: Tensor) -> Tensor:
    return terms.reshape(terms.shape[0], terms.shape[1:].numel()).sum(1)
