"""A time counts only if the values are right: every provider is compared with the reference in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .registry import Function, Inputs, leaves, tensors_of, widened


def training_step(function: Function, inputs: Inputs, cotangents: Sequence[Tensor]) -> Callable[[], list[Tensor]]:
    """Outputs and the gradients of all leaves: what one forward+backward computes."""
    wanted = leaves(inputs)

    def step() -> list[Tensor]:
        outputs = tensors_of(function(*inputs))
        paired = [pair for pair in zip(outputs, cotangents, strict=False) if pair[0].requires_grad]
        ends, starts = zip(*paired, strict=True)
        return [*outputs, *torch.autograd.grad(ends, wanted, starts, materialize_grads=True)]

    return step


def forward_pass(function: Function, inputs: Inputs) -> Callable[[], list[Tensor]]:
    def run() -> list[Tensor]:
        with torch.no_grad():
            return tensors_of(function(*inputs))

    return run


class Gate:
    """Knows the right values and how far plain PyTorch is from them in the dtype of the inputs.

    An error is the largest difference of a tensor over its largest value. Allowed are four times that of eager
    PyTorch and some units in the last place, and never more than half of the digits.
    """

    def __init__(self, expected: Sequence[Tensor], eager: Sequence[Tensor]):
        self.expected = [value.detach().double() for value in expected]
        self.allowed = []
        for value, right in zip(eager, self.expected, strict=True):
            eps = torch.finfo(value.dtype).eps if value.is_floating_point() else 0.0
            self.allowed.append(min(4 * _error(value, right) + 32 * eps, eps**0.5))

    def objection(self, values: Sequence[Tensor], first: int | None = None) -> str | None:
        """Why the values, or the first of them, are wrong, or None."""
        if len(values) != len(self.expected):
            return f"{len(values)} tensors instead of {len(self.expected)}"
        for i, (value, right, allowed) in enumerate(zip(values, self.expected, self.allowed, strict=True)):
            if i == first:
                return None
            if value.shape != right.shape:
                return f"tensor {i} is {list(value.shape)} instead of {list(right.shape)}"
            error = _error(value, right)
            if not error <= allowed:
                return f"tensor {i} is off by {error:.1e} where {allowed:.1e} is allowed"
        return None


def _error(value: Tensor, right: Tensor) -> float:
    if right.numel() == 0:
        return 0.0
    value = value.detach().double()
    finite = right.isfinite()
    if not torch.equal(value[~finite].nan_to_num(7.0), right[~finite].nan_to_num(7.0)):
        return float("inf")
    if not bool(finite.any()):
        return 0.0
    scale = right[finite].abs().max().item()
    difference = (value[finite] - right[finite]).abs().max().item()
    return difference / scale if scale > 0 else difference


def gate(reference: Function, inputs: Inputs, cotangents: Sequence[Tensor] | None) -> Gate:
    """The gate of a workload: forward if there are no cotangents, else with gradients."""
    wide: Any = widened(inputs)
    if cotangents is None:
        return Gate(forward_pass(reference, wide)(), forward_pass(reference, inputs)())
    for leaf in leaves(wide):
        leaf.requires_grad_()
    exact = training_step(reference, wide, [value.double() for value in cotangents])()
    return Gate(exact, training_step(reference, inputs, cotangents)())
