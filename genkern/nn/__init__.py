"""Drop-in `torch.nn.Module` layers made of genkern's operations."""

from .autoregressive import (
    CausalConv1d,
    GatedMaskedConv2d,
    MaskedConv2d,
    ShiftedConv2d,
    VerticalConv2d,
    check_causality,
)
from .flows import (
    ActNorm,
    AdditiveCoupling,
    AffineCoupling,
    ChannelAffine,
    Flatten,
    Flow,
    FlowBatchNorm,
    FlowSequential,
    Inverse,
    InvertibleConv1x1,
    Split,
    Squeeze,
    Unsqueeze,
    checkerboard,
)

__all__ = [
    "ActNorm",
    "AdditiveCoupling",
    "AffineCoupling",
    "CausalConv1d",
    "ChannelAffine",
    "Flatten",
    "Flow",
    "FlowBatchNorm",
    "FlowSequential",
    "GatedMaskedConv2d",
    "Inverse",
    "InvertibleConv1x1",
    "MaskedConv2d",
    "ShiftedConv2d",
    "Split",
    "Squeeze",
    "Unsqueeze",
    "VerticalConv2d",
    "check_causality",
    "checkerboard",
]
