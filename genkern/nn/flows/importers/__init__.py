"""Layers from the state dicts of other libraries: the same ``z`` and log-determinant in the density direction.

None of them needs to be installed.

>>> state = {"log_scale": torch.zeros(3), "shift": torch.ones(3), "initialized": torch.tensor(True)}
>>> nflows_actnorm(state)
ActNorm(3, form='scale_then_shift')
"""

from ._state import part
from .nflows import nflows_actnorm, nflows_affine_coupling, nflows_conv1x1, nflows_spline_coupling
from .normflows import (
    normflows_actnorm,
    normflows_affine_coupling,
    normflows_conv1x1,
    normflows_conv_net,
    normflows_glow_block,
    normflows_residual_net,
    normflows_spline_coupling,
)
from .rosinality import rosinality_glow

__all__ = [
    "nflows_actnorm",
    "nflows_affine_coupling",
    "nflows_conv1x1",
    "nflows_spline_coupling",
    "normflows_actnorm",
    "normflows_affine_coupling",
    "normflows_conv1x1",
    "normflows_conv_net",
    "normflows_glow_block",
    "normflows_residual_net",
    "normflows_spline_coupling",
    "part",
    "rosinality_glow",
]
