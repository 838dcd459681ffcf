"""Causal layers, whether they are causal, and sampling from what is made of them."""

from .causality import Causality, check_causality
from .gated import GatedMaskedConv2d
from .masked import CausalConv1d, MaskedConv2d, VerticalConv2d, sub_pixel_of
from .sampling import jacobi, naive

__all__ = [
    "Causality",
    "CausalConv1d",
    "GatedMaskedConv2d",
    "MaskedConv2d",
    "VerticalConv2d",
    "check_causality",
    "jacobi",
    "naive",
    "sub_pixel_of",
]
