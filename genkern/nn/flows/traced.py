"""What layers with autograd or a solver inside are made of in a graph that `torch.compile` or `torch.export` traces."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]
State = tuple[Tensor, Tensor]  # z and its log-determinant
Derivative = Callable[[Tensor, State], State]


def linearized(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Product]:
    """The function's value, and products with the transpose of its Jacobian.

    Under `torch.export`, which has no reverse mode, products with the Jacobian itself: a determinant, a diagonal and
    ``v J^k v`` are the same for both.
    """
    if torch.compiler.is_exporting():
        return function(x), lambda v: torch.func.jvp(function, (x,), (v,))[1]
    value, pull_back = torch.func.vjp(function, x)[:2]
    return value, lambda v: pull_back(v)[0]


def unit(like: Tensor, i: int) -> Tensor:
    """The i-th unit vector in every sample."""
    one = torch.zeros_like(like).flatten(1)
    one[:, i] = 1
    return one.view(like.shape)


def fixed_steps(derivative: Derivative, state: State, start: float, end: float, steps: int, solver: str) -> State:
    """Steps of Euler's rule, the midpoint rule or the 3/8 rule: torchdiffeq's, without its questions to the host."""
    step = (end - start) / steps
    for i in range(steps):
        part = start + (end - start) * i / steps

        def slope(share: float, *slopes: tuple[float, State], state: State = state, start: float = part) -> State:
            return derivative(state[0].new_tensor(start + share * step), moved(state, step, *slopes))

        k1 = slope(0.0)
        if solver == "euler":
            state = moved(state, step, (1.0, k1))
        elif solver == "midpoint":
            state = moved(state, step, (1.0, slope(1 / 2, (1 / 2, k1))))
        else:
            k2 = slope(1 / 3, (1 / 3, k1))
            k3 = slope(2 / 3, (1.0, k2), (-1 / 3, k1))
            k4 = slope(1.0, (1.0, k1), (-1.0, k2), (1.0, k3))
            state = moved(state, step, (1 / 8, k1), (3 / 8, k2), (3 / 8, k3), (1 / 8, k4))
    return state


def moved(state: State, step: float, *slopes: tuple[float, State]) -> State:
    """The state after a step along a combination of slopes."""
    z, log_det = (x + step * sum(share * slope[i] for share, slope in slopes) for i, x in enumerate(state))
    return z, log_det
