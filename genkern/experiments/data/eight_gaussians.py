"""Eight Gaussians on a circle: radius 4 and deviation 0.5, all divided by 1.414 (as in FFJORD's code)."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from ._dataset import DataSet
from ._toys import entropy_by_quadrature, toy

SHA256 = "bebf5159c1800817454621919fb2d639a36debd13c47c0492d6ee54a1db6848e"
RADIUS, SIGMA = 4 / 1.414, 0.5 / 1.414


def centres() -> Tensor:
    angle = torch.arange(8, dtype=torch.float64) * (math.pi / 4)
    return RADIUS * torch.stack([angle.cos(), angle.sin()], dim=-1)  # [8, 2]


def log_density(x: Tensor) -> Tensor:
    squared = (x.double()[:, None] - centres().to(x.device)).square().sum(-1)  # [B, 8]
    return (-0.5 * squared / SIGMA**2).logsumexp(-1) - math.log(8 * 2 * math.pi * SIGMA**2)


def draw(uniforms: Tensor, normals: Tensor) -> Tensor:
    return centres()[(8 * uniforms[:, 0]).long()] + SIGMA * normals


@functools.cache
def entropy() -> float:
    """2.8312 nats; the overlap of neighbours is why it is not ln 8 + ln(2 pi e sigma^2) = 2.8377."""
    reach = RADIUS + 9 * SIGMA
    return entropy_by_quadrature(log_density, (-reach, reach), (-reach, reach), SIGMA / 4)


def eight_gaussians() -> DataSet:
    return toy("eight-gaussians", draw, log_density, entropy()).verified(SHA256)
