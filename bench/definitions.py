"""Whole models on the definitions of their ops: the same network in plain PyTorch, eager or compiled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from genkern.ops._library import Op

from .registry import Function, Rival


@contextmanager
def definitions() -> Iterator[None]:
    """Within it every op runs its definition, as with ``impl="torch"``; what autograd then keeps is PyTorch's own."""
    usual = Op.__call__
    Op.__call__ = _definition  # type: ignore[method-assign]
    try:
        yield
    finally:
        Op.__call__ = usual  # type: ignore[method-assign]


def _definition(self: Op, *args: Any, impl: str = "auto") -> Any:
    return self.reference(*args)


def plain(function: Function) -> Function:
    """A function of a model, on the definitions."""

    def run(*inputs: Any) -> Any:
        with definitions():
            return function(*inputs)

    return run


def compiled(function: Function) -> Function:
    """A function of a model, on the definitions, compiled as a user would compile it."""
    return plain(torch.compile(function, dynamic=False))


def genkern_compiled(function: Function) -> Rival:
    """A function of a model, with genkern's ops in it, compiled as a user would compile it."""

    def fresh(*inputs: Any) -> Any:  # a frame of its own: the function's has the definitions compiled into it
        return function(*inputs)

    return Rival(lambda: torch.compile(fresh, dynamic=False))


def of_model(function: Function, impl: str) -> Function:
    """What a workload's ``run`` returns for a function of whole models."""
    return function if impl == "auto" else plain(function)
