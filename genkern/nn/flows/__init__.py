"""Layers of normalising flows: bijections with tractable Jacobians, and the containers that compose them.

``forward(x, context=None) -> (z, log_det)`` is the density direction, from data to latents;
``inverse(z, context=None) -> (x, log_det)`` the sampling direction. ``log_det`` is ``[B]``, in nats,
float32 or wider.
"""

from .actnorm import ActNorm, ChannelAffine
from .batch_norm import FlowBatchNorm
from .conv1x1 import InvertibleConv1x1
from .coupling import AdditiveCoupling, AffineCoupling, checkerboard
from .emerging import AutoregressiveConv2d, EmergingConv2d
from .flow import Flow, Inverse
from .periodic import PeriodicConv2d
from .sequential import FlowSequential
from .split import Split
from .squeeze import Flatten, Squeeze, Unsqueeze

__all__ = [
    "ActNorm",
    "AdditiveCoupling",
    "AffineCoupling",
    "AutoregressiveConv2d",
    "ChannelAffine",
    "EmergingConv2d",
    "Flatten",
    "Flow",
    "FlowBatchNorm",
    "FlowSequential",
    "Inverse",
    "InvertibleConv1x1",
    "PeriodicConv2d",
    "Split",
    "Squeeze",
    "Unsqueeze",
    "checkerboard",
]
