"""Runs an op's Triton launchers on CPU tensors, beside the definition."""

import importlib

import torch
from torch import Tensor

from genkern.testing import Case, assert_within_rule, cotangents, layouts, recorded_calls


def assert_launchers_agree(case: Case, dtype: torch.dtype, layout: str | None = None) -> None:
    """Values and gradients of the launchers obey the tolerance rule for the raw calls that a case makes."""
    tensors = case.inputs(dtype)
    if layout is not None:
        tensors = [layouts(tensor).get(layout, tensor) for tensor in tensors]
    with recorded_calls() as calls:
        case(*tensors)
    for op, args in calls:
        module = importlib.import_module(f"{op.definition.__module__.rpartition('.')[0]}.triton")
        exact = [a.double() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args]
        truth, plain = _tuple(op.reference(*exact)), _tuple(op.reference(*args))
        for i, (kernel, p, t) in enumerate(zip(_tuple(getattr(module, op.name)(*args)), plain, truth, strict=True)):
            _assert_close(kernel, p, t, f"{op.name}, output {i}")
        if op.differentiable:
            grads = cotangents(plain)
            kernels = _tuple(getattr(module, f"{op.name}_backward")(*grads, *args))
            plain_grads = _tuple(op.reference_backward(*grads, *args))
            truth_grads = _tuple(op.reference_backward(*(grad.double() for grad in grads), *exact))
            for i, (kernel, p, t) in enumerate(zip(kernels, plain_grads, truth_grads, strict=True)):
                _assert_close(kernel, p, t, f"{op.name}, gradient {i}")


def _assert_close(kernel: Tensor, plain: Tensor, truth: Tensor, what: str) -> None:
    if (
        kernel.dtype == torch.bfloat16 and truth.numel()
    ):  # the interpreter truncates where a GPU rounds to nearest: one more ulp
        assert (kernel.double() - truth).abs().max() <= 2.0**-7 * truth.abs().max(), what
    else:
        assert_within_rule(kernel, plain, truth, what=what)


def _tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)
