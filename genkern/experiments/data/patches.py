"""Patches of natural colour photographs; test patches come from photographs that training never sees.

``patches8`` and ``patches32`` need scikit-learn's two photographs alone; ``photos8`` and ``photos32`` add five that
scikit-image carries. A name means one data set: none depends on what else is installed.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

from ._dataset import DataSet, package_file, verify

SKLEARN, SKIMAGE = ("sklearn", "datasets/images", "scikit-learn"), ("skimage", "data", "scikit-image")
# photograph: package, SHA-256 of the file (of the file, since decoders of JPEG may differ in the last bit)
PHOTOS = {
    "china.jpg": (SKLEARN, "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29"),
    "flower.jpg": (SKLEARN, "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638"),
    "astronaut.png": (SKIMAGE, "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5"),
    "chelsea.png": (SKIMAGE, "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb"),
    "coffee.png": (SKIMAGE, "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7"),
    "motorcycle_left.png": (SKIMAGE, "db18e9c4157617403c3537a6ba355dfeafe9a7eabb6b9b94cb33f6525dd49179"),
    "rocket.jpg": (SKIMAGE, "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c"),
}


def patches(name: str, size: int) -> DataSet:
    """Train on the left four fifths of one photograph, validate on the rest of it, test on the other."""
    photo = load_photo("china.jpg", name)
    edge = photo.shape[2] * 4 // 5
    train, validation = cut(photo[:, :, :edge], size, size // 4), cut(photo[:, :, edge:], size, size)
    return DataSet(name, train, validation, cut(load_photo("flower.jpg", name), size, size), levels=256)


def photos(name: str, size: int) -> DataSet:
    """Four photographs to train on, one to validate, two to test."""
    train = ("china.jpg", "astronaut.png", "chelsea.png", "motorcycle_left.png")
    return DataSet(
        name,
        train=torch.cat([cut(load_photo(file, name), size, size // 2) for file in train]),
        validation=cut(load_photo("rocket.jpg", name), size, size),
        test=torch.cat([cut(load_photo(file, name), size, size) for file in ("coffee.png", "flower.jpg")]),
        levels=256,
    )


def load_photo(file: str, name: str) -> Tensor:
    """A photograph as uint8, ``[3, H, W]``."""
    (package, folder, install), expected = PHOTOS[file]
    path = package_file(package, f"{folder}/{file}", name, f"pip install {install}")
    verify(name, hashlib.sha256(path.read_bytes()).hexdigest(), expected)
    try:
        from PIL import Image
    except ImportError:
        raise ImportError(f"data set {name!r} needs pillow to read photographs: pip install pillow") from None
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def cut(photo: Tensor, size: int, stride: int) -> Tensor:
    """All patches ``[N, 3, size, size]`` whose corners lie on a grid, in raster order."""
    windows = photo.unfold(1, size, stride).unfold(2, size, stride)  # [3, rows, columns, size, size]
    return windows.permute(1, 2, 0, 3, 4).reshape(-1, photo.shape[0], size, size).contiguous()
