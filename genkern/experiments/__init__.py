"""Experiments: data sets, the training loop, metrics and figures; what the command line runs."""

from __future__ import annotations

from .._errors import Diverged, Interrupted
from .config import TrainConfig, suggested
from .metrics import bits_per_dim, held_out
from .training import train

__all__ = ["Diverged", "Interrupted", "TrainConfig", "bits_per_dim", "held_out", "suggested", "train"]
