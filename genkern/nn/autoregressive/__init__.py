"""Causal layers, whether they are causal, and sampling from what is made of them."""

from .cached import cached, is_traceable, stack_of
from .causality import Causality, check_causality
from .gated import GatedMaskedConv2d
from .made import MADE, MaskedLinear
from .masked import CausalConv1d, MaskedConv2d, VerticalConv2d, sub_pixel_of
from .sampling import jacobi, naive
from .tracing import Untraceable

__all__ = [
    "CausalConv1d",
    "Causality",
    "GatedMaskedConv2d",
    "MADE",
    "MaskedConv2d",
    "MaskedLinear",
    "Untraceable",
    "VerticalConv2d",
    "cached",
    "check_causality",
    "is_traceable",
    "jacobi",
    "naive",
    "stack_of",
    "sub_pixel_of",
]
