"""genkern: fast, exact, differentiable kernels, layers and models for deep generative modelling in PyTorch."""

import importlib
from typing import TYPE_CHECKING, Any

from . import ops, random
from .ops._report import info

if TYPE_CHECKING:
    from . import autoregressive, diffusion, experiments, models, nn, testing

__version__ = "0.1.0"
__all__ = [
    "__version__",
    "autoregressive",
    "diffusion",
    "experiments",
    "info",
    "models",
    "nn",
    "ops",
    "random",
    "testing",
]


def __getattr__(name: str) -> Any:
    """The other parts are there by name, and imported when they are first used."""
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
