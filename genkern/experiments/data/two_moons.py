"""Two interleaved half circles with Gaussian noise of deviation 0.1 (scikit-learn's make_moons, angles uniform)."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor

from ._dataset import DataSet
from ._toys import entropy_by_quadrature, toy

SHA256 = "7ef04f1a907a46ab46f70e7e2ce8fcf12579d615db317f0322dc0f5d242ceb0f"
SIGMA = 0.1


def arcs(angle: Tensor) -> Tensor:
    """Points of the upper and of the lower moon at angles in [0, pi], ``[2, N, 2]``."""
    upper = torch.stack([angle.cos(), angle.sin()], dim=-1)
    return torch.stack([upper, torch.tensor([1.0, 0.5], dtype=angle.dtype) - upper])


@functools.cache
def nodes() -> tuple[Tensor, Tensor]:
    """Points on both moons and the logarithms of their weights: Gauss-Legendre in the angle, exact to rounding."""
    x, weight = np.polynomial.legendre.leggauss(96)
    angle = torch.from_numpy((x + 1) * (math.pi / 2))
    return arcs(angle).flatten(0, 1), torch.from_numpy(weight / 4).log().repeat(2)  # [192, 2], [192]


def log_density(x: Tensor) -> Tensor:
    centre, log_weight = (tensor.to(x.device) for tensor in nodes())
    parts = []
    for chunk in x.double().split(8192):
        squared = (chunk[:, None] - centre).square().sum(-1)  # [B, 192]
        parts.append((log_weight - 0.5 * squared / SIGMA**2).logsumexp(-1))
    return torch.cat(parts) - math.log(2 * math.pi * SIGMA**2)


def draw(uniforms: Tensor, normals: Tensor) -> Tensor:
    lower = (2 * uniforms[:, 0]).long()
    return arcs(math.pi * uniforms[:, 1])[lower, torch.arange(len(lower))] + SIGMA * normals


@functools.cache
def entropy() -> float:
    """1.007 nats."""
    return entropy_by_quadrature(
        log_density, (-1 - 8 * SIGMA, 2 + 8 * SIGMA), (-0.5 - 8 * SIGMA, 1 + 8 * SIGMA), SIGMA / 3
    )


def two_moons() -> DataSet:
    return toy("two-moons", draw, log_density, entropy()).verified(SHA256)
