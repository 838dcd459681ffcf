"""Rivals that several ops have: formulas whose noise is torch's own, plain and compiled."""

from __future__ import annotations

from typing import Any

import torch

from .registry import MODES, Function, Rival


def with_torch_noise(function: Function, name: str = "randn", modes: Any = MODES) -> dict[str, Rival]:
    """A function that draws its noise by torch: eager, compiled, and compiled with torch's generator kept (fallback).

    Inductor has a generator of its own, which on a CPU is slower than eager PyTorch's; `fallback_random` avoids it.
    """
    makers = {
        name: lambda: function,
        f"{name}, compiled": lambda: torch.compile(function, dynamic=False),
        f"{name}, compiled, fallback RNG": lambda: with_fallback(function),
    }
    return {of: Rival(make, same_values=False, modes=modes) for of, make in makers.items()}


def with_fallback(function: Function) -> Function:
    """Compiled with eager PyTorch's random numbers inside."""
    inner = torch.compile(function, dynamic=False, options={"fallback_random": True})
    return lambda *inputs: inner(*inputs)
