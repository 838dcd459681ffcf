"""DPM-Solver++(2M) (Lu et al. 2022): the fastest of the deterministic samplers in few steps."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .. import coefficients, schedules
from ._multistep import Multistep
from ._sigmas import SigmaScheduler


class DPMSolverMultistepScheduler(Multistep, SigmaScheduler):
    """Two steps' predictions of the data for one evaluation of the model.

    >>> scheduler = DPMSolverMultistepScheduler()
    >>> scheduler.set_timesteps(10)
    >>> x = torch.randn(2, 3)
    >>> for t in scheduler.timesteps:
    ...     x = scheduler.step(torch.zeros_like(x), t, x).prev_sample
    """

    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Any = None,
        solver_order: int = 2,
        prediction_type: str = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        sample_max_value: float = 1.0,
        algorithm_type: str = "dpmsolver++",
        solver_type: str = "midpoint",
        lower_order_final: bool = True,
        euler_at_final: bool = False,
        use_karras_sigmas: bool = False,
        use_exponential_sigmas: bool = False,
        final_sigmas_type: str = "zero",
        lambda_min_clipped: float = -math.inf,
        variance_type: str | None = None,
        timestep_spacing: str = "linspace",
        steps_offset: int = 0,
        rescale_betas_zero_snr: bool = False,
    ) -> None:
        super().__init__(locals())
        self._check_solver()
        self._install_at(torch.arange(num_train_timesteps, dtype=torch.float64).flip(0), None)

    @property
    def init_noise_sigma(self) -> float:  # type: ignore[override]
        """1: samples are of the process that keeps the variance."""
        return 1.0

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """The sample as it is."""
        return sample

    def _spaced(self, num_inference_steps: int) -> Tensor:
        config = self.config
        log_snr = -schedules.sigmas_of(self.alphas_cumprod).log()
        usable = int((log_snr >= config.lambda_min_clipped).sum())
        if config.timestep_spacing == "linspace":
            return torch.linspace(usable - 1, 0, num_inference_steps + 1, dtype=torch.float64)[:-1].round()
        if config.timestep_spacing == "leading":
            counted = torch.arange(num_inference_steps, 0, -1) * (usable // (num_inference_steps + 1))
            return counted.double() + config.steps_offset
        stride = config.num_train_timesteps / num_inference_steps
        count = math.ceil(usable / stride)
        return (usable - torch.arange(count, dtype=torch.float64) * stride).round() - 1

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """Chooses noise levels."""
        config = self.config
        chosen = self._spaced(num_inference_steps)
        if config.use_karras_sigmas or config.use_exponential_sigmas:
            chosen = torch.linspace(len(self.alphas_cumprod) - 1, 0, num_inference_steps, dtype=torch.float64)
        self._install_at(chosen, device)
        self.num_inference_steps = len(self.timesteps)

    def _install_at(self, chosen: Tensor, device: Any) -> None:
        config = self.config
        sigmas, at = self._levels(chosen)
        if config.beta_schedule not in ("squaredcos_cap_v2", "cosine"):
            at = at.round()
        self._install_levels(torch.cat([sigmas, sigmas.new_full((1,), self._final())]), at, device)
        self._install_places(at.long(), device)
        alphas = (1 + self.sigmas**2).rsqrt()
        scaled = self.sigmas * alphas
        data = coefficients.denoised(config.prediction_type, alphas[:-1], scaled[:-1])
        self._tabulate_levels(alphas, scaled, *data)
        self._rows["alpha_at"], self._rows["scaled_at"] = alphas[:-1], scaled[:-1]

    def _install_places(self, timesteps: Tensor, device: Any) -> None:
        self.timesteps = timesteps.to(device)
        self._places = {timestep: i for i, timestep in enumerate(timesteps.tolist())}

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        r""":math:`\alpha_t x_0 + \sigma_t \epsilon`, for one of `timesteps` for each sample."""
        index = self._index(timesteps)
        alpha, sigma = (self._at(name, index, original_samples) for name in ("alpha_at", "scaled_at"))
        return (alpha * original_samples + sigma * noise).to(original_samples.dtype)
