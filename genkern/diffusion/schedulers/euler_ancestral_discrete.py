"""Euler's method below each noise level, and fresh noise up to it (k-diffusion's ``euler_ancestral``)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import coefficients
from ._base import Generator
from ._sigmas import SigmaScheduler


class EulerAncestralDiscreteScheduler(SigmaScheduler):
    """Ancestral sampling with Euler's steps.

    >>> scheduler = EulerAncestralDiscreteScheduler()
    >>> scheduler.set_timesteps(10)
    >>> x = torch.randn(2, 3) * scheduler.init_noise_sigma
    >>> for t in scheduler.timesteps:
    ...     x = scheduler.step(torch.zeros_like(x), t, x, generator=0).prev_sample
    """

    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Any = None,
        prediction_type: str = "epsilon",
        timestep_spacing: str = "linspace",
        steps_offset: int = 0,
        rescale_betas_zero_snr: bool = False,
    ) -> None:
        super().__init__(locals())
        self.set_timesteps(num_train_timesteps)
        self.num_inference_steps = None

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """Chooses noise levels."""
        sigmas, at = self._levels(self._spaced(num_inference_steps))
        self.num_inference_steps = num_inference_steps
        self._install_levels(torch.cat([sigmas, sigmas.new_zeros(1)]), at, device)
        data = coefficients.denoised_at(self.config.prediction_type, sigmas)
        self._rows["step"] = coefficients.euler_ancestral(sigmas, self.sigmas[1:], *data)

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        generator: Generator | None = None,
        return_dict: bool = True,
        **options: Any,
    ) -> Any:
        """One step; options as in `DDPMScheduler.step`."""
        index = self._index(timestep)
        noisy = not isinstance(index, int) or index < len(self.timesteps) - 1
        return self._output(*self._run("step", index, sample, model_output, generator, noisy, options), return_dict)
