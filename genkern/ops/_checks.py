"""One wording for every complaint: which function, which argument, what was wanted, what came."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

KERNEL_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def check(
    condition: bool, function: str, argument: str, wanted: str, came: Any, error: type[Exception] = ValueError
) -> None:
    """Raises ``function: argument must be wanted; got came.`` unless the condition holds."""
    if not condition:
        raise error(f"{function}: {argument} must be {wanted}; got {_words(came)}.")


def check_choice(function: str, argument: str, value: Any, choices: tuple[Any, ...]) -> None:
    """`check` of a name among a few; the wording is made for a wrong one alone."""
    if value not in choices:
        check(False, function, argument, f"one of {choices}", repr(value))


def _words(came: Any) -> str:
    """``(a, "x is", b)`` reads ``a (x is b)``; shapes read as lists."""
    if isinstance(came, torch.Size):
        return f"{list(came)}"
    if isinstance(came, tuple) and len(came) == 3 and isinstance(came[1], str):
        return f"{_words(came[0])} ({came[1]} {_words(came[2])})"
    return f"{came}"


def check_floating(function: str, argument: str, value: Any) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{function}: {argument} must be a tensor; got {type(value).__name__}.")
    check(
        value.dtype in KERNEL_DTYPES,
        function,
        argument,
        "float32, float64, bfloat16 or float16",
        value.dtype,
        TypeError,
    )


def promote(function: str, **tensors: Tensor) -> list[Tensor]:
    """Floating tensors on one device, brought to their common dtype; the first one names the device."""
    values = list(tensors.values())
    if alike(values):
        return values
    for argument, tensor in tensors.items():
        check_floating(function, argument, tensor)
    first = values[0]
    dtype = first.dtype
    for argument, tensor in tensors.items():
        check(tensor.device == first.device, function, argument, f"on {first.device}", tensor.device)
        dtype = torch.promote_types(dtype, tensor.dtype)
    return [tensor.to(dtype) for tensor in values]


def alike(values: list[Any]) -> bool:
    """Whether there is nothing to complain about and nothing to convert: nearly always, so it must cost little."""
    first = values[0]
    if not isinstance(first, Tensor) or first.dtype not in KERNEL_DTYPES:
        return False
    dtype, device = first.dtype, first.device
    return all(isinstance(v, Tensor) and v.dtype == dtype and v.device == device for v in values[1:])
