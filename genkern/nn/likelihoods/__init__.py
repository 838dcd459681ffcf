"""Distributions of integer pixels for the end of a decoder, and draws in one dimension."""

from .inverse_cdf import empirical_inverse_cdf, histogram_inverse_cdf, softmax, softmin
from .pixels import (
    BernoulliPixels,
    CategoricalPixels,
    DiscretizedLogistic,
    DiscretizedMixture,
    PixelLikelihood,
    pixel_likelihood,
)

__all__ = [
    "BernoulliPixels",
    "CategoricalPixels",
    "DiscretizedLogistic",
    "DiscretizedMixture",
    "PixelLikelihood",
    "empirical_inverse_cdf",
    "histogram_inverse_cdf",
    "pixel_likelihood",
    "softmax",
    "softmin",
]
