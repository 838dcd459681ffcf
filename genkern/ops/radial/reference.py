"""The radial flow in plain PyTorch: the definition that every kernel is compared with."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

LEAST = 1e-12  # of alpha and gamma: the map stays invertible, and its derivatives finite, where they round to nothing


def radial(x: Tensor, center: Tensor, raw_alpha: Tensor, raw_beta: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
    alpha, gamma = softplus(raw_alpha).clamp(min=LEAST), softplus(raw_beta).clamp(min=LEAST)
    beta = gamma - alpha
    away = x - center
    square = away.square().sum(-1)
    r = torch.where(square > 0, torch.where(square > 0, square, 1).sqrt(), 0)  # differentiable at the centre
    if inverse:
        r = radius_before(r, alpha, gamma)
    grown = r.square() + 2 * alpha * r + alpha * gamma
    tangential = log_of_one_plus(beta / (alpha + r), r + gamma, r + alpha)
    outward = log_of_one_plus(alpha * beta / (alpha + r).square(), grown, (alpha + r).square())
    log_det = (x.shape[-1] - 1) * tangential + outward
    if inverse:
        return x - away * (beta / (r + gamma)).unsqueeze(-1), -log_det
    return x + away * (beta / (r + alpha)).unsqueeze(-1), log_det


def radius_before(r: Tensor, alpha: Tensor, gamma: Tensor) -> Tensor:
    """The positive root of q² + (gamma - r) q - alpha r = 0, in the form in which nothing cancels."""
    excess = r - gamma
    both = excess.abs() + (excess.square() + 4 * alpha * r).sqrt()
    return torch.where(excess >= 0, both / 2, 2 * alpha * r / both)


def log_of_one_plus(q: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
    """ln(1 + q), where 1 + q is the ratio of two positive numbers: exact for small q and for q near -1."""
    return torch.where(q > -0.5, q.clamp(min=-0.5).log1p(), (numerator / denominator).log())
