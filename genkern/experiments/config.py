"""What a run is: everything that its weights depend on, besides the code."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from .. import models
from . import data

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed", "64": "64-true"}
SCHEDULES = ("cosine", "constant")


@dataclass(frozen=True)
class TrainConfig:
    """A preset, a data set, and how the one is fitted to the other.

    ``batch_size`` is that of all processes together. Zero switches off ``warmup``, ``clip``, ``weight_decay``,
    ``ema`` and ``patience``; the last counts evaluations without improvement. ``betas`` are Adam's where the model does
    not ask for its own; None: (0.9, 0.999).
    """

    model: str
    data: str = "digits"
    options: dict[str, Any] = field(default_factory=dict)  # fields of the model's config to replace
    steps: int = 1500
    batch_size: int = 64
    lr: float = 3e-3
    betas: tuple[float, float] | None = None
    schedule: str = "cosine"
    warmup: int = 100
    weight_decay: float = 0.01
    clip: float = 0.0
    ema: float = 0.999
    precision: str = "32"
    seed: int = 0
    evaluate_every: int = 100
    checkpoint_every: int = 100
    patience: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "lr", "evaluate_every", "checkpoint_every"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{_flag(name)} must be positive, got {getattr(self, name)}.")
        for name in ("warmup", "weight_decay", "clip", "patience"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{_flag(name)} must not be negative, got {getattr(self, name)}.")
        if not 0 <= self.ema < 1:
            raise ValueError(f"--ema must be in [0, 1), got {self.ema}.")
        if self.betas is not None and not (len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)):
            raise ValueError(f"--betas must be two numbers in [0, 1), got {self.betas}.")
        if self.precision not in PRECISIONS:
            raise ValueError(f"--precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}.")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"--schedule must be one of {', '.join(SCHEDULES)}, got {self.schedule!r}.")

    def learning_rate(self, step: int) -> float:
        """That of the update after ``step`` updates: a linear warm-up, then constant or down a half cosine to 0."""
        warm = min(1.0, (step + 1) / (self.warmup + 1))
        if self.schedule == "constant":
            return self.lr * warm
        progress = max(0, step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def suggested(model: str, data_set: str, **given: Any) -> TrainConfig:
    """What is given, and for the rest (or what is None) the preset's recipe; 256 points of the plane a step."""
    defaults = {"batch_size": 256} if data_set in data.POINTS else {}
    chosen = {name: value for name, value in given.items() if value is not None}
    return TrainConfig(model, data_set, **{**defaults, **models.recipe(model), **chosen})


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
