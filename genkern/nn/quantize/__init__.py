"""Layers that replace vectors by codes."""

from .codebook import Codebook, Usage
from .fsq import FSQ
from .lfq import LFQ
from .residual import ResidualVQ
from .routing import rotate_to, straight_through
from .vector_quantize import VectorQuantize
from .vector_quantizer import Quantized, VectorQuantizer

__all__ = [
    "FSQ",
    "LFQ",
    "Codebook",
    "Quantized",
    "ResidualVQ",
    "Usage",
    "VectorQuantize",
    "VectorQuantizer",
    "rotate_to",
    "straight_through",
]
