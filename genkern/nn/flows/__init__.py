"""Layers of normalising flows: bijections with tractable Jacobians, and the containers that compose them.

``forward(x, context=None) -> (z, log_det)`` is the density direction, from data to latents;
``inverse(z, context=None) -> (x, log_det)`` the sampling direction. ``log_det`` is ``[B]``, in nats,
float32 or wider.
"""

from .actnorm import ActNorm, ChannelAffine
from .autoregressive import InverseAutoregressive, MaskedAutoregressive
from .batch_norm import FlowBatchNorm
from .conditioners import Conditioned
from .continuous import CNF
from .conv1x1 import InvertibleConv1x1
from .coupling import AdditiveCoupling, AffineCoupling, checkerboard
from .dequantization import VariationalDequantization
from .elementwise import AffineTransform, ElementwiseTransform, GatedTransform
from .emerging import AutoregressiveConv2d, EmergingConv2d
from .flow import Flow, Inverse
from .lipschitz import LipSwish, SpectralConv2d, SpectralLinear
from .periodic import PeriodicConv2d
from .permutation import Householder, Permutation
from .planar import Planar, Radial
from .priors import ClassConditionalGaussian, MixtureOfGaussians, Prior, StandardLogistic, StandardNormal
from .residual import ExactLogDet, PowerSeries, ResidualFlow, RussianRoulette
from .sequential import FlowSequential
from .spline import ElementwiseSpline, SplineCoupling, SplineTransform
from .split import Split
from .squeeze import Flatten, Squeeze, Unsqueeze
from .sylvester import Sylvester
from .velocity import VelocityNetwork

__all__ = [
    "ActNorm",
    "AdditiveCoupling",
    "AffineCoupling",
    "CNF",
    "AffineTransform",
    "ChannelAffine",
    "ClassConditionalGaussian",
    "Conditioned",
    "ElementwiseSpline",
    "ElementwiseTransform",
    "AutoregressiveConv2d",
    "EmergingConv2d",
    "ExactLogDet",
    "Flatten",
    "Flow",
    "FlowBatchNorm",
    "FlowSequential",
    "GatedTransform",
    "Householder",
    "Inverse",
    "InverseAutoregressive",
    "InvertibleConv1x1",
    "MaskedAutoregressive",
    "MixtureOfGaussians",
    "Permutation",
    "Prior",
    "SplineCoupling",
    "SplineTransform",
    "PeriodicConv2d",
    "Split",
    "Squeeze",
    "StandardLogistic",
    "StandardNormal",
    "LipSwish",
    "Planar",
    "Radial",
    "ResidualFlow",
    "RussianRoulette",
    "PowerSeries",
    "SpectralConv2d",
    "SpectralLinear",
    "Sylvester",
    "Unsqueeze",
    "VariationalDequantization",
    "VelocityNetwork",
    "checkerboard",
]
