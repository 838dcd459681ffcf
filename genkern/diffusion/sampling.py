"""The loop from noise to samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import random
from .schedulers import Scheduler


@torch.no_grad()
def sample(
    model: Callable[[Tensor, Tensor], Tensor],
    scheduler: Scheduler,
    shape: Sequence[int],
    *,
    key: Tensor,
    sample_offset: int = 0,
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> Tensor:
    """Samples of a diffusion model: noise, and the scheduler's steps.

    Args:
        model: of the sample, scaled as the scheduler wants it, and the timestep ``[]``.
        scheduler: after `set_timesteps`; before it takes all steps of the training.
        shape: ``[B, *]``.
        key: from `genkern.random`, on the device; a sample depends on it and on its own index alone.
        sample_offset: index of the first sample, where this is a part of a larger batch.
        dtype: of the samples.
        options: passed to every step.

    Returns:
        Samples, of ``shape``.

    >>> from genkern.diffusion.schedulers import DDIMScheduler
    >>> scheduler = DDIMScheduler()
    >>> scheduler.set_timesteps(10)
    >>> sample(lambda x, t: torch.zeros_like(x), scheduler, (2, 3), key=random.key(0)).shape
    torch.Size([2, 3])
    """
    start, steps = random.split(key)
    x = random.normal(start, shape, dtype=dtype, sample_offset=sample_offset) * float(scheduler.init_noise_sigma)
    for timestep in scheduler.timesteps:
        output = model(scheduler.scale_model_input(x, timestep), timestep)
        x = scheduler.step(output, timestep, x, generator=steps, sample_offset=sample_offset, **options).prev_sample
    return x


__all__ = ["sample"]
