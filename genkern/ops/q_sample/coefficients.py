"""Coefficients of a diffusion process: one for each sample, given as such, or looked up in the table of a schedule."""

from __future__ import annotations

import torch
from torch import Tensor

from .._checks import check
from .._library import wide_dtype


def of_samples(function: str, argument: str, value: Tensor | float, x: Tensor, timesteps: Tensor | None) -> Tensor:
    """The coefficient of every sample of x, [B], in the dtype of arithmetic."""
    dtype = wide_dtype(x.dtype)
    if not isinstance(value, Tensor):
        check(
            isinstance(value, int | float), function, argument, "a tensor or a number", type(value).__name__, TypeError
        )
        return torch.full((x.shape[0],), float(value), dtype=dtype, device=x.device)
    check(value.is_floating_point(), function, argument, "floating", value.dtype, TypeError)
    check(value.device == x.device, function, argument, f"on {x.device}", value.device)
    if timesteps is not None:
        check(value.dim() == 1, function, argument, "a table [T], as timesteps are given", value.shape)
        return rows_of(function, argument, value, timesteps).to(dtype)
    fits = value.dim() == 0 or value.shape == x.shape[:1]
    check(fits, function, argument, f"[] or [B] = {list(x.shape[:1])}", value.shape)
    return value.to(dtype).expand(x.shape[0])


def rows_of(function: str, argument: str, table: Tensor, timesteps: Tensor) -> Tensor:
    """The rows of a table at some timesteps; one that it does not have is named on a CPU, elsewhere torch asserts."""
    try:
        return table.index_select(0, timesteps)
    except (IndexError, RuntimeError) as error:
        if table.device.type != "cpu" or torch.compiler.is_compiling():
            raise
        wanted = f"in [0, {len(table)}), as the table {argument} has {len(table)} rows"
        raise ValueError(f"{function}: timesteps must be {wanted}; got {timesteps.tolist()}.") from error


def check_timesteps(function: str, timesteps: Tensor | None, x: Tensor) -> None:
    if timesteps is None:
        return
    check(isinstance(timesteps, Tensor), function, "timesteps", "a tensor", type(timesteps).__name__, TypeError)
    integer = timesteps.dtype in (torch.int64, torch.int32)
    check(integer, function, "timesteps", "int64 or int32", timesteps.dtype, TypeError)
    check(timesteps.shape == x.shape[:1], function, "timesteps", f"[B] = {list(x.shape[:1])}", timesteps.shape)
    check(timesteps.device == x.device, function, "timesteps", f"on {x.device}", timesteps.device)
