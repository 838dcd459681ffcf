"""Pictures of a run: a grid of samples, a density beside its samples, and the curves of training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._files import write_atomically

CELL = 64  # a picture in the grid is enlarged to at least this many pixels, without smoothing
DENSITY_GRID = 160


def save_grid(path: str | Path, pictures: Tensor, levels: int) -> None:
    """Integer pictures ``[N, C, H, W]`` in a near-square grid; grey, or colour where C is 3."""
    image = grid(pictures, levels)

    def write(temporary: Path) -> None:
        from matplotlib.image import imsave

        imsave(temporary, image)

    write_atomically(path, write)


def grid(pictures: Tensor, levels: int) -> np.ndarray:
    """The grid as uint8, ``[rows, columns, 3]``, with light lines between pictures."""
    n, channels, height, width = pictures.shape
    if channels not in (1, 3):
        pictures, channels = pictures[:, :1], 1
    scale = max(1, math.ceil(CELL / max(height, width)))
    bright = (pictures.double().clamp(0, levels - 1) * (255 / (levels - 1))).round().to(torch.uint8).cpu()
    large = bright.repeat_interleave(scale, 2).repeat_interleave(scale, 3).expand(n, 3, -1, -1)
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    line = 2
    canvas = np.full((rows * (height * scale + line) + line, columns * (width * scale + line) + line, 3), 200, np.uint8)
    for i, picture in enumerate(large.permute(0, 2, 3, 1).numpy()):
        top = i // columns * (height * scale + line) + line
        left = i % columns * (width * scale + line) + line
        canvas[top : top + height * scale, left : left + width * scale] = picture
    return canvas


def save_density(
    path: str | Path, samples: Tensor, data: Tensor, log_prob: Callable[[Tensor], Tensor] | None, title: str = ""
) -> None:
    """Points ``[N, 2]`` of the data and of the model and, where it has one, the model's density, on the same axes."""
    data, samples = data.cpu(), samples.cpu()
    low, high = data.amin(0), data.amax(0)
    low, high = low - 0.1 * (high - low), high + 0.1 * (high - low)
    extent = (float(low[0]), float(high[0]), float(low[1]), float(high[1]))
    panels: list[tuple[str, Tensor]] = [("data", data), ("samples", samples)]
    if log_prob is not None:
        x, y = (torch.linspace(float(low[i]), float(high[i]), DENSITY_GRID) for i in (0, 1))
        rows, columns = torch.meshgrid(y, x, indexing="ij")
        points = torch.stack([columns, rows], dim=-1).flatten(0, 1)
        with torch.no_grad():
            density = torch.cat([log_prob(chunk).exp().cpu() for chunk in points.split(4096)])
        panels.insert(1, ("density", density.reshape(DENSITY_GRID, DENSITY_GRID)))

    figure, axes = _figure(1, len(panels), size=4.0)
    figure.suptitle(title)
    for axis, (name, content) in zip(axes, panels, strict=True):
        axis.set(title=name, xlim=extent[:2], ylim=extent[2:], aspect="equal", xticks=[], yticks=[])
        if name == "density":
            axis.imshow(content.float().numpy(), origin="lower", extent=extent, cmap="viridis")
        else:
            axis.scatter(content[:5000, 0], content[:5000, 1], s=1, linewidths=0)
    write_atomically(path, figure.savefig)


def save_curves(path: str | Path, rows: Sequence[dict[str, float]], unit: str, baselines: dict[str, float]) -> None:
    """Training loss, and the held-out value with its baselines, over steps."""
    figure, (left, right) = _figure(1, 2, size=4.5)
    losses = [(row["step"], row["loss"]) for row in rows if "loss" in row]
    values = [(row["step"], row["validation"]) for row in rows if "validation" in row]
    if losses:
        left.plot(*zip(*losses, strict=True), linewidth=1)
    left.set(title="training loss", xlabel="step")
    if values:
        right.plot(*zip(*values, strict=True), marker=".", label="validation")
    for i, (name, value) in enumerate(baselines.items()):
        right.axhline(value, linestyle="--", linewidth=1, color=f"C{i + 1}", label=name)
    right.set(title=f"held out, {unit}", xlabel="step")
    right.legend()
    write_atomically(path, figure.savefig)


def _figure(rows: int, columns: int, size: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # without pyplot: no windows, no global state

    figure = Figure(figsize=(size * columns, size * rows), layout="constrained", dpi=110)
    return figure, figure.subplots(rows, columns, squeeze=False).flatten()
