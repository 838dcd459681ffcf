"""Drop-in `torch.nn.Module` layers made of genkern's operations."""

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
    "ChannelAffine",
    "Flatten",
    "Flow",
    "FlowBatchNorm",
    "FlowSequential",
    "Inverse",
    "InvertibleConv1x1",
    "Split",
    "Squeeze",
    "Unsqueeze",
    "checkerboard",
]
