"""Fashion-MNIST, pictures of clothes in ten classes (Xiao et al. 2017, arXiv:1708.07747), as Debian packages it."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ._dataset import DataSet, shuffled, split_labelled

SHA256 = "21f1c229ab8a286f8b783fc5783932f2d5685c0610a5c024aabf45af48ef6e67"
FOLDER, INSTALL = Path("datasets/fashion-mnist"), "apt-get install dataset-fashion-mnist"
SIZES = (59000, 500, 500)  # the held-out parts as small as those of mnist, to evaluate chains in minutes


def fashion() -> DataSet:
    """60000 pictures ``[1, 28, 28]`` with 256 levels, those for training, shuffled once: 59000, 500 and 500.

    The 10,000 pictures for testing are left alone, so that whoever reports on them has them unseen.
    """
    folder = installed()
    x, y = (idx(folder / f"train-{part}-ubyte.gz") for part in ("images-idx3", "labels-idx1"))
    return split_labelled("fashion", x[:, None], y.long(), shuffled(len(x)), SIZES, levels=256).verified(SHA256)


def installed() -> Path:
    """The folder of the package, within the data directories of the system (``XDG_DATA_DIRS``)."""
    roots = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    for root in roots.split(":"):
        if (Path(root) / FOLDER).is_dir():
            return Path(root) / FOLDER
    raise ImportError(f"data set 'fashion' comes with the Debian package dataset-fashion-mnist: {INSTALL}")


def idx(path: Path) -> Tensor:
    """The uint8 array of a gzipped IDX file: two zeros, the type, the number of dimensions, each in four bytes."""
    with gzip.open(path) as file:
        content = file.read()
    if content[:3] != b"\0\0\x08":
        raise ValueError(f"{path} is not an IDX file of bytes.")
    sizes = np.frombuffer(content, ">i4", count=content[3], offset=4).tolist()
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=4 + 4 * len(sizes)).reshape(sizes).copy())
