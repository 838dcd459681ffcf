"""Diffusion models' samplers: schedules in float64, steps by name, scheduler classes; the arithmetic is in `ops`."""

from . import schedules
from .sde import SDE, SubVPSDE, VESDE, VPSDE, predictor_corrector

__all__ = ["SDE", "SubVPSDE", "VESDE", "VPSDE", "predictor_corrector", "schedules"]
