"""Latent variables of variational autoencoders: their draws, how much they may cost, and when a step is skipped."""

from .free_bits import SoftFreeBits, free_bits
from .gaussian import GaussianLatent
from .skipping import SkipRule
from .temperature import exponential_temperature, linear_temperature

__all__ = [
    "GaussianLatent",
    "SkipRule",
    "SoftFreeBits",
    "exponential_temperature",
    "free_bits",
    "linear_temperature",
]
