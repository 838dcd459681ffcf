"""genkern: fast, exact, differentiable kernels, layers and models for deep generative modelling in PyTorch."""

from . import ops, random
from .ops._report import info

__version__ = "0.1.0"
__all__ = ["__version__", "info", "ops", "random"]
