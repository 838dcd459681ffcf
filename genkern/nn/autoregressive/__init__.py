"""Layers whose outputs depend on earlier inputs alone, a check of that, and sampling from what is made of them."""

from .attention import SparseSelfAttention, attention_pattern, sparse_attention
from .cached import cached, is_traceable, stack_of
from .causality import Causality, check_causality
from .gated import GatedMaskedConv2d
from .layouts import Untraceable
from .made import MADE, MaskedLinear
from .masked import CausalConv1d, MaskedConv2d, VerticalConv2d, sub_pixel_of
from .recurrent import DiagonalBiLSTM, RowLSTM
from .sampling import Progress, jacobi, naive
from .shifted import ShiftedConv2d, with_ones

__all__ = [
    "CausalConv1d",
    "Causality",
    "DiagonalBiLSTM",
    "GatedMaskedConv2d",
    "MADE",
    "MaskedConv2d",
    "MaskedLinear",
    "Progress",
    "RowLSTM",
    "ShiftedConv2d",
    "SparseSelfAttention",
    "Untraceable",
    "VerticalConv2d",
    "attention_pattern",
    "cached",
    "check_causality",
    "is_traceable",
    "jacobi",
    "naive",
    "sparse_attention",
    "stack_of",
    "sub_pixel_of",
    "with_ones",
]
