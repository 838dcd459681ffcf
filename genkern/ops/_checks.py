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


def check_key(function: str, key: Any, device: torch.device) -> None:
    """One key of `genkern.random`, on the device of the tensors that its noise is for."""
    if isinstance(key, Tensor) and key.dtype == torch.int64 and key.dim() == 0 and key.device == device:
        return
    check(isinstance(key, Tensor), function, "key", "an int64 tensor", type(key).__name__, TypeError)
    check(key.dtype == torch.int64, function, "key", "an int64 tensor", key.dtype, TypeError)
    check(key.dim() == 0, function, "key", "one key, of shape []", key.shape)
    check(key.device == device, function, "key", f"on {device}", key.device)


def check_noise(function: str, noise: Any, argument: str, like: Tensor) -> None:
    """Noise that came from outside, in place of what would be drawn for an argument."""
    check_floating(function, "noise", noise)
    wanted = f"of the shape of {argument} {list(like.shape)}"
    check(noise.shape == like.shape, function, "noise", wanted, noise.shape)
    check(noise.device == like.device, function, "noise", f"on {like.device}", noise.device)


def check_mask(function: str, mask: Any, shape: tuple[int, ...], device: torch.device) -> None:
    """A mask of bytes: of a wider integer, which becomes one, 256 would be False."""
    if isinstance(mask, Tensor) and mask.dtype in (torch.bool, torch.uint8):
        if mask.shape == shape and mask.device == device:  # nearly always: no words are made
            return
    check(isinstance(mask, Tensor), function, "mask", "a tensor", type(mask).__name__, TypeError)
    check(mask.dtype in (torch.bool, torch.uint8), function, "mask", "bool or uint8", mask.dtype, TypeError)
    check(tuple(mask.shape) == tuple(shape), function, "mask", f"{list(shape)}", mask.shape)
    check(mask.device == device, function, "mask", f"on {device}", mask.device)


def check_levels(function: str, argument: str, pixels: Tensor, levels: int) -> None:
    """Integer pixels in [0, levels), looked at by the host: for what happens once, not in a step."""
    wanted = f"integers in [0, {levels})"
    check(not pixels.is_floating_point(), function, argument, wanted, pixels.dtype, TypeError)
    if pixels.numel():
        low, high = (int(value) for value in pixels.aminmax())
        check(0 <= low and high < levels, function, argument, wanted, f"from {low} to {high}")


def broadcasts(shape: torch.Size, to: torch.Size) -> bool:
    """Whether a tensor of one shape expands to another."""
    aligned = zip(reversed(shape), reversed(to), strict=False)
    return len(shape) <= len(to) and all(size in (1, wanted) for size, wanted in aligned)


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
