"""What the energies of a model say: whether its samples have those of data, and other pictures higher ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import random
from .._files import write_atomically
from ..models import GenerativeModel
from .data import DataSet
from .metrics import CHUNK, like

BINS = 30
SAMPLES, NOISE, SHUFFLE = range(3)  # folded into a key: what it draws


@torch.no_grad()
def energies(model: GenerativeModel, x: Tensor) -> Tensor:
    """Of each sample, ``[N]``, float64 on the CPU."""
    return torch.cat([model.energy(chunk).double().cpu() for chunk in like(model, x).split(CHUNK)])  # type: ignore[operator]


def overlap(first: Tensor, second: Tensor, bins: int = BINS) -> float:
    """The area that two histograms share, 0 to 1, on bins that hold both."""
    first, second = (values[values.isfinite()] for values in (first, second))
    if not len(first) or not len(second):
        return 0.0
    both = torch.cat([first, second])
    low, high = float(both.min()), float(both.max())
    if low == high:
        return 1.0
    histograms = [torch.histc(values.double(), bins, low, high) / len(values) for values in (first, second)]
    return float(torch.minimum(*histograms).sum())


def auroc(inside: Tensor, outside: Tensor) -> float:
    """How often a number from outside is larger than one from inside, ties counting half: the area under the ROC curve.

    >>> auroc(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]))
    0.875
    """
    values, where = torch.cat([inside, outside]).unique(return_inverse=True)
    counts = torch.bincount(where, minlength=len(values)).double()
    ranks = (counts.cumsum(0) - (counts - 1) / 2)[where[len(inside) :]].sum()
    n, m = len(inside), len(outside)
    return float((ranks - m * (m + 1) / 2) / (n * m))


def outsiders(data_set: DataSet, key: Tensor) -> dict[str, Tensor]:
    """Pictures that are not of the data set: noise, inverted ones, and such whose pixels are of different pictures."""
    x, levels = data_set.test, data_set.levels
    if levels is None:
        raise ValueError(f"outsiders: wanted integer pixels, and {data_set.name!r} has none.")
    u = random.uniform(random.fold_in(key, NOISE), tuple(x.shape))
    flat = x.flatten(1)
    order = random.uniform(random.fold_in(key, SHUFFLE), tuple(flat.shape)).argsort(0)  # of each pixel by itself
    others = {
        "uniform noise": (u * levels).long().clamp(max=levels - 1).to(x.dtype),
        "inverted": levels - 1 - x,
        "pixels of different pictures": flat.gather(0, order).reshape(x.shape),
    }
    return others


def report(model: GenerativeModel, data_set: DataSet, *, key: Tensor, picture: Path | None = None) -> dict[str, Any]:
    """Energies of held-out data, samples and pictures from elsewhere, in numbers and as a picture.

    Returns:
        ``overlap`` of the energies of samples and of held-out data (1: the same); ``auroc`` of each kind of other
        pictures (1: all energies higher than those of data); ``accuracy``, where the model classifies.
    """
    x = data_set.test
    with torch.no_grad():
        samples = model.sample(len(x), key=random.fold_in(key, SAMPLES))
    inside, drawn = energies(model, x), energies(model, samples)
    found: dict[str, Any] = {"overlap": overlap(inside, drawn)}
    shown = {"held out": inside, "samples": drawn}
    if data_set.levels is not None:
        others = outsiders(data_set, random.fold_in(random.key(0), NOISE))
        values = {name: energies(model, pictures) for name, pictures in others.items()}
        found["auroc"] = {name: auroc(inside, other) for name, other in values.items()}
        shown |= values
    if callable(getattr(model, "classify", None)) and data_set.labels is not None:
        guess = torch.cat([model.classify(chunk).cpu() for chunk in like(model, x).split(CHUNK)])  # type: ignore[operator]
        found["accuracy"] = float((guess == data_set.labels["test"]).double().mean())
    if picture is not None:
        save_histograms(picture, shown)
    return found


def save_histograms(path: Path, energies: dict[str, Tensor]) -> None:
    """Histograms of energies, the first one in view; what lies beyond is in the last bins."""
    from matplotlib.figure import Figure  # without pyplot: no windows, no global state

    figure = Figure(figsize=(6, 3.5), layout="constrained", dpi=110)
    axis = figure.subplots()
    first, second = (next(iter(energies.values())).quantile(torch.tensor([0.005, 0.995]).double())).tolist()
    low, high = first - (second - first), second + 2 * (second - first)
    for name, values in energies.items():
        axis.hist(values.clamp(low, high).numpy(), bins=60, range=(low, high), density=True, alpha=0.5, label=name)
    axis.set(xlabel="energy", yticks=[])
    axis.legend()
    write_atomically(path, figure.savefig)
