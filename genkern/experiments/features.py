r"""How real samples look: the Fréchet distance between features of samples and of real pictures.

.. math:: d^2 = \lVert \mu_1 - \mu_2 \rVert^2 + \operatorname{tr}(\Sigma_1 + \Sigma_2 - 2 (\Sigma_1 \Sigma_2)^{1/2})

between Gaussians fitted to the features of both (Heusel et al. 2017, arXiv:1706.08500, equation 6). The features are
those of a small classifier of the data set's own classes, trained where they are needed, always to the same weights on
one machine. So distances compare models of one data set; they are not the FID of natural pictures.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .. import random
from .data import DataSet
from .order import BatchOrder

FEATURES, HIDDEN = 32, 32
STEPS, BATCH, RATE = 400, 64, 3e-3
CHUNK = 500  # pictures at a time


class Score(NamedTuple):
    """A Fréchet distance of samples from held-out pictures, and that of training pictures in their place: the floor."""

    distance: float
    real: float  # mean over parts of the training pictures, each of as many as there are samples
    samples: int  # of each of the two
    accuracy: float  # of the classifier, on the held-out pictures


class Classifier(nn.Module):
    """Two convolutions, 32 features, the classes: integer pixels to logits."""

    def __init__(self, shape: tuple[int, ...], levels: int, classes: int):
        super().__init__()
        channels, height, width = shape
        self.levels = levels
        self.features = nn.Sequential(
            nn.Conv2d(channels, HIDDEN, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(HIDDEN, 2 * HIDDEN, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d((min(height, 4), min(width, 4))),
            nn.Flatten(),
            nn.Linear(2 * HIDDEN * min(height, 4) * min(width, 4), FEATURES),
        )
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(FEATURES, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(2 * x.float() / (self.levels - 1) - 1))

    @torch.no_grad()
    def describe(self, x: Tensor) -> Tensor:
        """Features of integer pixels ``[N, C, H, W]``: float64, ``[N, 32]``."""
        scaled = (2 * chunk.float() / (self.levels - 1) - 1 for chunk in x.split(CHUNK))
        return torch.cat([self.features(chunk).double() for chunk in scaled])


def classifier(data_set: DataSet) -> Classifier:
    """The classifier of a data set's training part, on the CPU, the same each time.

    Raises:
        ValueError: where the data set has no labelled pictures.
    """
    if data_set.labels is None or data_set.levels is None or len(data_set.shape) != 3:
        raise ValueError(f"features need labelled pictures, and {data_set.name!r} has none.")
    x, y = data_set.train, data_set.labels["train"]
    order = BatchOrder(len(x), min(BATCH, len(x)), random.key(0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Classifier(data_set.shape, data_set.levels, int(y.max()) + 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for step in range(STEPS):
        rows = order.batch(step)
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval().requires_grad_(False)


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Of the Gaussians with the means and covariances of two sets of features, ``[N, D]`` and ``[M, D]``; squared."""
    for name, features in (("first", first), ("second", second)):
        if features.dim() != 2 or len(features) < 2:
            raise ValueError(f"frechet_distance: {name} must be [N, D] with N >= 2, got {list(features.shape)}.")
    first, second = first.double(), second.double()
    a, b = torch.atleast_2d(first.T.cov()), torch.atleast_2d(second.T.cov())
    values, vectors = torch.linalg.eigh(a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ b @ root).clamp(min=0).sqrt().sum()
    mean = (first.mean(0) - second.mean(0)).square().sum()
    return max(0.0, float(mean + a.trace() + b.trace() - 2 * cross))


def score(samples: Tensor, data_set: DataSet, model: Classifier | None = None) -> Score:
    """Samples beside real pictures: the distance of either from the pictures that are held out of training.

    Args:
        samples: integer pixels, ``[N, C, H, W]``. Distances shrink with ``N``, so compare equal numbers only.
        data_set: labelled pictures; its validation and test parts together are what is compared with.
        model: a `classifier` of the data set, to train it once for several calls.
    """
    if tuple(samples.shape[1:]) != data_set.shape or len(samples) < 2:
        raise ValueError(
            f"score: samples must be [N, {', '.join(map(str, data_set.shape))}] with N >= 2, got {list(samples.shape)}."
        )
    model = model or classifier(data_set)
    held_out = torch.cat([data_set.validation, data_set.test])
    reference = model.describe(held_out)
    labels = torch.cat([data_set.labels["validation"], data_set.labels["test"]])  # type: ignore[index]
    accuracy = (model(held_out).argmax(1) == labels).double().mean()
    size = min(len(samples), len(data_set.train))
    parts = [part for part in model.describe(data_set.train).split(size) if len(part) == size]
    real = sum(frechet_distance(part, reference) for part in parts) / len(parts)
    drawn = model.describe(samples[:size].cpu())
    return Score(frechet_distance(drawn, reference), real, size, float(accuracy))
