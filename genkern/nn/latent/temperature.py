"""Temperatures that fall while a model of discrete latents trains: functions of the number of the step."""

from __future__ import annotations

import math


def exponential_temperature(step: int, *, start: float = 1.0, rate: float = 3e-5, minimum: float = 0.5) -> float:
    r""":math:`\max(\tau_{\min}, \tau_0 e^{-r t})`.

    Args:
        step: :math:`t`.
        start: :math:`\tau_0`.
        rate: :math:`r`.
        minimum: :math:`\tau_{\min}`.

    Jang et al. 2017 (arXiv:1611.01144), section 4.2.

    >>> [round(exponential_temperature(step, rate=1e-3), 3) for step in (0, 100, 10_000)]
    [1.0, 0.905, 0.5]
    """
    _check("exponential_temperature", start, minimum, rate)
    return max(minimum, start * math.exp(-rate * step))


def linear_temperature(step: int, *, start: float = 1.0, minimum: float = 0.5, steps: int = 10_000) -> float:
    """From one temperature straight down to another, and constant from there.

    Args:
        step: of training.
        start: at step 0.
        minimum: from step ``steps`` on.
        steps: how long it takes.

    >>> [linear_temperature(step, steps=100) for step in (0, 50, 1000)]
    [1.0, 0.75, 0.5]
    """
    _check("linear_temperature", start, minimum, steps)
    return start + (minimum - start) * min(1.0, step / steps)


def _check(function: str, start: float, minimum: float, pace: float) -> None:
    if not (start >= minimum > 0 and pace > 0):
        raise ValueError(
            f"{function}: start >= minimum > 0 and a positive pace are wanted; got {start}, {minimum}, {pace}."
        )
