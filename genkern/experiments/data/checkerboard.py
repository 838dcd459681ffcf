"""The checkerboard: uniform on eight of the sixteen squares of [-4, 4]^2."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._dataset import DataSet
from ._toys import toy

SHA256 = "833a23206a6bb11055d39077ff041adbd26aed1422534e332c58bd94412aaafc"
AREA = 32


def log_density(x: Tensor) -> Tensor:
    cell = (x.double() / 2).floor()
    inside = (x.abs() < 4).all(-1) & (cell.sum(-1) % 2 == 0)
    return torch.where(inside, -math.log(AREA), -math.inf).double()


def draw(uniforms: Tensor, normals: Tensor) -> Tensor:
    column, row = (4 * uniforms[:, 0]).floor() - 2, (2 * uniforms[:, 1]).floor()  # column in -2..1, row in 0..1
    corner = torch.stack([column, 2 * row - 2 + column % 2], dim=-1)
    return 2 * (corner + uniforms[:, 2:])


def entropy() -> float:
    """ln 32: the density is constant."""
    return math.log(AREA)


def checkerboard() -> DataSet:
    return toy("checkerboard", draw, log_density, entropy()).verified(SHA256)
