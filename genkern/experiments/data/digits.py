"""Handwritten digits of 8x8 pixels with 17 levels, bundled with scikit-learn (UCI "Optical Recognition", test part)."""

from __future__ import annotations

import gzip

import numpy as np
import torch

from ._dataset import DataSet, package_file, shuffled, split_labelled

SHA256 = "733ed0d53d614b88781485e3a795bb3617f9d2038d374bbcbc12c792a64a65a7"
SIZES = (1350, 150, 297)  # the 1500/297 split at seed 0 of which the last 150 before the test part are for validation


def digits() -> DataSet:
    """1797 pictures ``[1, 8, 8]``, shuffled once: 1350 train, 150 validation, 297 test.

    On the test part a uniform model has 4.087 bits/dim, and per-pixel histograms of the other 1500 have 2.437.
    """
    path = package_file("sklearn", "datasets/data/digits.csv.gz", "digits", "pip install scikit-learn")
    with gzip.open(path, "rt") as lines:
        table = torch.from_numpy(np.loadtxt(lines, delimiter=",", dtype=np.uint8))  # [1797, 65]
    x, y = table[:, :64].reshape(-1, 1, 8, 8).contiguous(), table[:, 64].long()
    return split_labelled("digits", x, y, shuffled(len(x)), SIZES, levels=17).verified(SHA256)
