"""Causal layers, whether they are causal, and sampling from what is made of them."""

from .attention import SparseSelfAttention, attention_pattern, sparse_attention
from .causality import Causality, check_causality
from .gated import GatedMaskedConv2d
from .masked import CausalConv1d, MaskedConv2d, VerticalConv2d, sub_pixel_of
from .recurrent import DiagonalBiLSTM, RowLSTM
from .sampling import jacobi, naive

__all__ = [
    "Causality",
    "CausalConv1d",
    "DiagonalBiLSTM",
    "GatedMaskedConv2d",
    "MaskedConv2d",
    "RowLSTM",
    "SparseSelfAttention",
    "VerticalConv2d",
    "attention_pattern",
    "check_causality",
    "jacobi",
    "naive",
    "sparse_attention",
    "sub_pixel_of",
]
