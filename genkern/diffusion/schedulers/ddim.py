"""DDIM: deterministic sampling in few steps, or anything between it and DDPM (Song et al. 2021)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import coefficients, schedules
from ._base import Generator, TableScheduler


class DDIMScheduler(TableScheduler):
    """Steps along the predicted data and noise.

    >>> scheduler = DDIMScheduler()
    >>> scheduler.set_timesteps(10)
    >>> x = torch.randn(2, 3, 4, 4)
    >>> for t in scheduler.timesteps:
    ...     x = scheduler.step(torch.zeros_like(x), t, x, eta=0.0).prev_sample
    """

    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Any = None,
        clip_sample: bool = True,
        set_alpha_to_one: bool = True,
        steps_offset: int = 0,
        prediction_type: str = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        clip_sample_range: float = 1.0,
        sample_max_value: float = 1.0,
        timestep_spacing: str = "leading",
        rescale_betas_zero_snr: bool = False,
    ) -> None:
        super().__init__(locals())
        self.final_alpha_cumprod = 1.0 if set_alpha_to_one else float(self.alphas_cumprod[0])
        self._install(torch.arange(num_train_timesteps).flip(0), None)
        self._stride = 1

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """Chooses some of the training timesteps."""
        config = self.config
        chosen = schedules.timesteps(
            config.timestep_spacing, num_inference_steps, config.num_train_timesteps, config.steps_offset
        )
        self.num_inference_steps = num_inference_steps
        self._install(chosen, device)
        self._stride = config.num_train_timesteps // num_inference_steps

    def _table(self, eta: float, rederive: bool) -> tuple[float, bool]:
        name = float(eta), bool(rederive)
        if name not in self._rows:
            at = self.timesteps.cpu()
            before = at - self._stride
            after = torch.where(before >= 0, self.alphas_cumprod[before.clamp(min=0)], self.final_alpha_cumprod)
            self._rows[name] = coefficients.ddim(
                self.alphas_cumprod[at], after, self.config.prediction_type, eta, rederive=rederive
            )
        return name

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool = False,
        generator: Generator | None = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
        **options: Any,
    ) -> Any:
        """One step.

        Args:
            eta: 0 is deterministic, 1 has the noise of DDPM.
            use_clipped_model_output: take the noise from the data after clipping, as it should be; False: the model's,
                which no longer fits them.
            generator, variance_noise, options: as in `DDPMScheduler.step`.
        """
        options["variance_noise"] = variance_noise if eta else None
        table = self._table(eta, use_clipped_model_output)
        found = self._run(table, self._index(timestep), sample, model_output, generator, eta > 0, options)
        return self._output(*found, return_dict)
