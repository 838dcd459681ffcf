"""Diffusion models' samplers: schedules in float64, steps by name, scheduler classes; the arithmetic is in `ops`."""

from . import schedules

__all__ = ["schedules"]
