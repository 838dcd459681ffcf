"""Layers of normalising flows: bijections with tractable Jacobians, and the containers that compose them.

``forward(x, context=None) -> (z, log_det)`` is the density direction, from data to latents;
``inverse(z, context=None) -> (x, log_det)`` the sampling direction. ``log_det`` is ``[B]``, in nats,
float32 or wider.
"""

from .actnorm import ActNorm, ChannelAffine
from .batch_norm import FlowBatchNorm
from .conv1x1 import InvertibleConv1x1
from .coupling import AdditiveCoupling, AffineCoupling, checkerboard
from .flow import Flow, Inverse
from .lipschitz import LipSwish, SpectralConv2d, SpectralLinear
from .planar import Planar, Radial
from .residual import ExactLogDet, PowerSeries, ResidualFlow, RussianRoulette
from .sequential import FlowSequential
from .split import Split
from .squeeze import Flatten, Squeeze, Unsqueeze
from .sylvester import Sylvester

__all__ = [
    "ActNorm",
    "AdditiveCoupling",
    "AffineCoupling",
    "ChannelAffine",
    "ExactLogDet",
    "Flatten",
    "Flow",
    "FlowBatchNorm",
    "FlowSequential",
    "Inverse",
    "InvertibleConv1x1",
    "LipSwish",
    "Planar",
    "Radial",
    "ResidualFlow",
    "RussianRoulette",
    "PowerSeries",
    "SpectralConv2d",
    "SpectralLinear",
    "Split",
    "Squeeze",
    "Sylvester",
    "Unsqueeze",
    "checkerboard",
]
