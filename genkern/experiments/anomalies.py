"""Whether a model of normal pictures finds what was pasted into them: AnoDDPM's claim in small.

Squares of growing side are pasted on held-out pictures, and each pixel's squared error is asked whether it is of the
square. Gaussian noise is to lose the larger squares, simplex noise to keep them.

``python -m genkern.experiments.anomalies RUN...`` prints the table for run folders of ``genkern train anoddpm-small``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from .. import models, random
from ..models.anomaly.anoddpm import AnoDDPM
from .data import load
from .energies import auroc
from .figures import save_grid
from .metrics import CHUNK, like
from .run import Run

SIDES = (1, 2, 3, 4)
STARTS = (40, 80, 120)
PLACE, MAP = range(2)  # folded into a key: what it draws


def paste_squares(x: Tensor, side: int, levels: int, *, key: Tensor, sample_offset: int = 0) -> tuple[Tensor, Tensor]:
    """Pictures with a square somewhere in each: black on what is bright on average, white on what is dark.

    Args:
        x: integer pixels in [0, levels), ``[B, C, H, W]``.
        side: of the squares, in pixels.
        key: of where they are; that of a picture depends on the key and its number alone.

    Returns:
        The pictures like ``x``, and where the squares are, bool ``[B, 1, H, W]``.

    >>> pictures, squares = paste_squares(torch.zeros(5, 1, 8, 8), 3, 17, key=random.key(0))
    >>> pictures.unique().tolist(), squares.sum((1, 2, 3)).tolist()
    ([0.0, 16.0], [9, 9, 9, 9, 9])
    """
    n, _, height, width = x.shape
    if not 1 <= side <= min(height, width):
        raise ValueError(f"paste_squares: side must be in [1, {min(height, width)}]; got {side}.")
    u = random.uniform(key, (n, 2), sample_offset=sample_offset).to(x.device)
    top, left = ((u * torch.tensor([height - side + 1, width - side + 1], device=x.device)).long()).unbind(1)
    rows, columns = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    inside_rows = (rows >= top[:, None]) & (rows < top[:, None] + side)
    inside_columns = (columns >= left[:, None]) & (columns < left[:, None] + side)
    squares = (inside_rows[:, :, None] & inside_columns[:, None, :])[:, None]
    mean = (x.double() * squares).sum((1, 2, 3)) / (x.shape[1] * side**2)
    colour = torch.where(mean > (levels - 1) / 2, 0, levels - 1).to(x.dtype)[:, None, None, None]
    return torch.where(squares, colour, x), squares


@torch.no_grad()
def anomaly_auc(model: AnoDDPM, x: Tensor, side: int, *, start: int, averages: int = 4, key: Tensor) -> float:
    """The area under the ROC curve of pixels: how often the squared error of one in a square exceeds one's outside.

    Args:
        model: trained on pictures such as ``x``.
        x: healthy pictures, ``[N, C, H, W]``.
        side: of the squares of `paste_squares`.
        start: how many steps into noise, and back.
        averages: of which the reconstruction is the mean.
        key: of the places and the noise.
    """
    inside, outside = [], []
    for i, chunk in enumerate(like(model, x).split(CHUNK)):
        pictures, squares = paste_squares(
            chunk, side, model.config.levels, key=random.fold_in(key, PLACE), sample_offset=i * CHUNK
        )
        error = model.anomaly_map(
            pictures, start=start, averages=averages, key=random.fold_in(key, MAP), sample_offset=i * CHUNK
        ).mean(1, keepdim=True)
        inside.append(error[squares].cpu())
        outside.append(error[~squares].cpu())
    return auroc(torch.cat(outside), torch.cat(inside))


def table(
    model: AnoDDPM, x: Tensor, *, sides: Sequence[int] = SIDES, starts: Sequence[int] = STARTS, key: Tensor
) -> dict[int, list[float]]:
    """`anomaly_auc` of every side, by the number of steps into noise."""
    return {start: [anomaly_auc(model, x, side, start=start, key=key) for side in sides] for start in starts}


def save_anomalies(path: str | Path, model: AnoDDPM, x: Tensor, side: int, *, key: Tensor) -> None:
    """A grid of triples: pictures with squares, what comes back, and their squared error."""
    pictures, _ = paste_squares(like(model, x), side, model.config.levels, key=random.fold_in(key, PLACE))
    for grid in model.pictures(pictures, key=random.fold_in(key, MAP)).values():
        save_grid(path, grid, model.config.levels)


def main(folders: Sequence[str]) -> None:
    """Prints the table of each run, on the held-out pictures of its data set."""
    for folder in folders:
        run = Run(folder)
        model = models.load(run.best)
        if not isinstance(model, AnoDDPM):
            raise ValueError(f"{folder} holds a {type(model).__name__}, which finds no anomalies.")
        test = load((run.read_config() or {}).get("data", "digits")).test
        starts = [start for start in STARTS if start <= model.trained_steps]
        for start, row in table(model, test, starts=starts, key=random.key(0)).items():
            print(f"{folder} {model.config.noise} start {start}:", *(f"{auc:.3f}" for auc in row), flush=True)
        save_anomalies(run.folder / "squares.png", model, test, max(SIDES) - 1, key=random.key(0))


if __name__ == "__main__":
    main(sys.argv[1:])
