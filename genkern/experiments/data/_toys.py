"""Two-dimensional toys: a sampler, its exact log-density, and the entropy that bounds every model's likelihood."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from genkern import random

from ._dataset import DataSet

SIZES = (50_000, 5_000, 20_000)
Range = tuple[float, float]


def toy(
    name: str,
    draw: Callable[[Tensor, Tensor], Tensor],
    log_density: Callable[[Tensor], Tensor],
    entropy: float,
) -> DataSet:
    """Samples ``draw(uniforms [N, 4], normals [N, 2])`` in float64, from the counter-based streams of key 0.

    Sample ``i`` depends on ``i`` alone, so that the same points come from every machine.
    """
    key, n = random.key(0), sum(SIZES)
    uniforms = random.uniform(random.fold_in(key, 0), (n, 4)).double()
    normals = random.normal(random.fold_in(key, 1), (n, 2)).double()
    train, validation, test = draw(uniforms, normals).float().split(list(SIZES))
    return DataSet(name, train, validation, test, entropy=entropy, log_density=log_density)


def entropy_by_quadrature(log_density: Callable[[Tensor], Tensor], x: Range, y: Range, step: float) -> float:
    """The integral of ``-p log p`` by the trapezoidal rule over a box outside of which nothing is left.

    For a smooth density that has vanished at the border the rule converges exponentially in 1/step: at a third of
    the width of its Gaussians the error is of the order of rounding. The tests halve the step and see no change.
    """
    log_p = log_density(grid(x, y, step).flatten(0, 1))
    return float(-(log_p.exp() * log_p).sum() * step**2)


def grid(x: Range, y: Range, step: float) -> Tensor:
    """Points ``[rows, columns, 2]`` at multiples of ``step``, float64."""
    axes = [torch.arange(round(low / step), round(high / step) + 1, dtype=torch.float64) * step for low, high in (y, x)]
    rows, columns = torch.meshgrid(*axes, indexing="ij")
    return torch.stack([columns, rows], dim=-1)
