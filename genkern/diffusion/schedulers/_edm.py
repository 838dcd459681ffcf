"""Schedulers of models with EDM's preconditioning (Karras et al. 2022)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...ops._checks import check
from .. import coefficients, schedules
from ._base import Scheduler


class EDMScheduler(Scheduler):
    """Noise levels chosen outright; the model reads a scaled sample and a quarter of the logarithm of the level."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        super().__init__(arguments)
        config, name = self.config, type(self).__name__
        known = ("karras", "exponential")
        check(config.sigma_schedule in known, name, "sigma_schedule", f"one of {known}", repr(config.sigma_schedule))
        known = ("zero", "sigma_min")
        check(config.final_sigmas_type in known, name, "final_sigmas_type", f"one of {known}",
              repr(config.final_sigmas_type))  # fmt: skip
        self.set_timesteps(config.num_train_timesteps)
        self.num_inference_steps = None

    @property
    def init_noise_sigma(self) -> float:  # type: ignore[override]
        """Standard deviation of the noise to start from."""
        return (self.config.sigma_max**2 + 1) ** 0.5

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """Chooses noise levels."""
        config = self.config
        ends = config.sigma_min, config.sigma_max
        if config.sigma_schedule == "karras":
            sigmas = schedules.karras_sigmas(num_inference_steps, *ends, config.rho)
        else:
            sigmas = schedules.exponential_sigmas(num_inference_steps, *ends)
        self.num_inference_steps = num_inference_steps
        self._install((0.25 * sigmas.log()).float(), device)
        last = 0.0 if config.final_sigmas_type == "zero" else float(sigmas[-1])
        self.sigmas = torch.cat([sigmas, sigmas.new_full((1,), last)])
        self._rows["sigma_at"] = sigmas
        self._rows["input"] = (sigmas**2 + config.sigma_data**2).rsqrt()
        self._tabulate()

    def _tabulate(self) -> None:
        raise NotImplementedError(f"{type(self).__name__} does not define its table of coefficients.")

    def _data(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return coefficients.edm_denoised(sigma, self.config.sigma_data, self.config.prediction_type)

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        r""":math:`c_{in} x = x / \sqrt{\sigma^2 + \sigma_{data}^2}`."""
        return (sample * self._at("input", self._index(timestep), sample)).to(sample.dtype)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        r""":math:`x_0 + \sigma \epsilon`, for one of `timesteps` for each sample."""
        sigma = self._at("sigma_at", self._index(timesteps), original_samples)
        return (original_samples + sigma * noise).to(original_samples.dtype)
