"""Euler's method on the probability flow, with the churn of EDM's stochastic sampler (Karras et al. 2022)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...ops._checks import check
from .. import coefficients
from ..steps import churn_step
from ._base import Generator
from ._sigmas import SigmaScheduler


class EulerDiscreteScheduler(SigmaScheduler):
    """One evaluation of the model for each step.

    >>> scheduler = EulerDiscreteScheduler(use_karras_sigmas=True)
    >>> scheduler.set_timesteps(10)
    >>> x = torch.randn(2, 3) * scheduler.init_noise_sigma
    >>> for t in scheduler.timesteps:
    ...     x = scheduler.step(torch.zeros_like(scheduler.scale_model_input(x, t)), t, x).prev_sample
    """

    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Any = None,
        prediction_type: str = "epsilon",
        use_karras_sigmas: bool = False,
        use_exponential_sigmas: bool = False,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        timestep_spacing: str = "linspace",
        steps_offset: int = 0,
        rescale_betas_zero_snr: bool = False,
        final_sigmas_type: str = "zero",
    ) -> None:
        super().__init__(locals())
        self.set_timesteps(num_train_timesteps)
        self.num_inference_steps = None

    def set_timesteps(
        self, num_inference_steps: int | None = None, device: Any = None, timesteps: list[float] | None = None
    ) -> None:
        """Chooses noise levels by their number, or at given falling timesteps."""
        one = (num_inference_steps is None) != (timesteps is None)
        check(one, "EulerDiscreteScheduler.set_timesteps", "num_inference_steps, timesteps", "one of them",
              (num_inference_steps, timesteps))  # fmt: skip
        chosen = self._spaced(num_inference_steps or 0) if timesteps is None else torch.as_tensor(timesteps)
        sigmas, at = self._levels(chosen)
        self.num_inference_steps = len(at)
        self._install_levels(torch.cat([sigmas, sigmas.new_full((1,), self._final())]), at, device)
        self._rows["step"] = self._row(self.sigmas[:-1], self.sigmas[1:])

    def _row(self, sigma: Any, sigma_next: Any) -> Tensor:
        data = coefficients.denoised_at(self.config.prediction_type, sigma)
        return coefficients.euler(sigma, sigma_next, *data)

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = float("inf"),
        s_noise: float = 1.0,
        generator: Generator | None = None,
        return_dict: bool = True,
        **options: Any,
    ) -> Any:
        """One step; with ``s_churn`` from a higher noise level, for timesteps that the host knows."""
        index = self._index(timestep)
        if s_churn:
            check(isinstance(index, int), "EulerDiscreteScheduler.step", "timestep", "an element of timesteps or number"
                  " where there is churn", timestep)  # fmt: skip
            sigma, sigma_next = (float(level) for level in self.sigmas[index : index + 2])  # type: ignore[operator]
            gamma = min(s_churn / len(self.timesteps), 2**0.5 - 1) if s_tmin <= sigma <= s_tmax else 0.0
            if gamma > 0:
                noise = options.pop("variance_noise", None)
                key = None if noise is not None else self._folded(generator, index, sample)
                shared = {"sample_offset": options.get("sample_offset", 0), "noise": noise, "key": key}
                sample = churn_step(sample, sigma, sigma * (1 + gamma), s_noise=s_noise, **shared)
                row = self._row(sigma * (1 + gamma), sigma_next)
                found = self._run(row, index, sample, model_output, None, False, options)
                return self._output(*found, return_dict)
        found = self._run("step", index, sample, model_output, None, False, options)
        return self._output(*found, return_dict)
