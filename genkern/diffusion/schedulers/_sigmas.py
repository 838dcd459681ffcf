"""Schedulers of a process that is never scaled down, :math:`x = x_0 + \\sigma \\epsilon`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...ops._checks import check
from .. import schedules
from ._base import TableScheduler


class SigmaScheduler(TableScheduler):
    """Noise levels between the training timesteps, and what the model reads at each of them."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        super().__init__(arguments)
        if self.config.get("rescale_betas_zero_snr"):
            self.alphas_cumprod[-1] = 2.0**-24  # not 0, where sigma would be infinite
        self.sigmas = torch.zeros(0, dtype=torch.float64)
        flags = [self.config.get(f"use_{kind}_sigmas", False) for kind in ("karras", "exponential")]
        check(sum(flags) <= 1, type(self).__name__, "use_karras_sigmas, use_exponential_sigmas", "one of them", flags)

    def _levels(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Levels at falling timesteps, or respaced between their ends, with the timesteps of those; float64."""
        config, table = self.config, schedules.sigmas_of(self.alphas_cumprod)
        at = timesteps.double()
        low = at.floor().long().clamp(0, len(table) - 1)
        sigmas = torch.lerp(table[low], table[(low + 1).clamp(max=len(table) - 1)], at - low)
        if not (config.get("use_karras_sigmas") or config.get("use_exponential_sigmas")):
            return sigmas, at
        ends = config.get("sigma_min"), config.get("sigma_max")
        least = float(sigmas[-1]) if ends[0] is None else ends[0]
        most = float(sigmas[0]) if ends[1] is None else ends[1]
        respaced = schedules.karras_sigmas if config.get("use_karras_sigmas") else schedules.exponential_sigmas
        sigmas = respaced(len(at), least, most)
        return sigmas, schedules.sigma_to_timestep(sigmas, table)

    def _spaced(self, num_inference_steps: int) -> Tensor:
        """Timesteps; between the training ones where they are evenly spaced."""
        config = self.config
        if config.timestep_spacing == "linspace":
            return torch.linspace(config.num_train_timesteps - 1, 0, num_inference_steps, dtype=torch.float64)
        offset = config.steps_offset if config.timestep_spacing == "leading" else 0
        spacing, trained = config.timestep_spacing, config.num_train_timesteps
        return schedules.timesteps(spacing, num_inference_steps, trained, offset).double()

    def _final(self) -> float:
        kind = self.config.get("final_sigmas_type", "zero")
        check(kind in ("zero", "sigma_min"), type(self).__name__, "final_sigmas_type", "'zero' or 'sigma_min'", kind)
        return 0.0 if kind == "zero" else float(schedules.sigmas_of(self.alphas_cumprod)[0])

    def _install_levels(self, sigmas: Tensor, timesteps: Tensor, device: Any) -> None:
        """Of levels with the last one to end at, and the timesteps of all others."""
        self._install(timesteps.float(), device)
        self.sigmas = sigmas
        self._rows["sigma_at"] = sigmas[:-1]
        self._rows["input"] = (1 + sigmas[:-1] ** 2).rsqrt()

    @property
    def init_noise_sigma(self) -> float:  # type: ignore[override]
        """Standard deviation of the noise to start from."""
        most = float(self.sigmas.max())
        return most if self.config.timestep_spacing in ("linspace", "trailing") else (most**2 + 1) ** 0.5

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        r""":math:`x / \sqrt{1 + \sigma^2}`, which the model was trained on."""
        return (sample * self._at("input", self._place(timestep, sample), sample)).to(sample.dtype)

    def _place(self, timestep: Any, sample: Tensor) -> int | Tensor:
        return self._index(timestep)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        r""":math:`x_0 + \sigma \epsilon`, for one of `timesteps` for each sample."""
        sigma = self._at("sigma_at", self._index(timesteps), original_samples)
        return (original_samples + sigma * noise).to(original_samples.dtype)
