"""DDPM: ancestral sampling (Ho et al. 2020; Nichol & Dhariwal 2021 for learned variances)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...ops._checks import check
from .. import coefficients, schedules
from ._base import Generator, TableScheduler


class DDPMScheduler(TableScheduler):
    """Draws from the reverse process; all variance and prediction types.

    Under a learned variance the model's output has as many channels again; ``"learned"`` takes them for the logarithm
    of the variance.

    >>> scheduler = DDPMScheduler(num_train_timesteps=50)
    >>> x = torch.randn(2, 3, 4, 4)
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
        variance_type: str = "fixed_small",
        clip_sample: bool = True,
        prediction_type: str = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        clip_sample_range: float = 1.0,
        sample_max_value: float = 1.0,
        timestep_spacing: str = "leading",
        steps_offset: int = 0,
        rescale_betas_zero_snr: bool = False,
    ) -> None:
        super().__init__(locals())
        self._install(torch.arange(num_train_timesteps).flip(0), None)
        self._tabulate()

    def set_timesteps(
        self, num_inference_steps: int | None = None, device: Any = None, timesteps: list[int] | None = None
    ) -> None:
        """Chooses some of the training timesteps by their number, or names them, falling."""
        name = "DDPMScheduler.set_timesteps"
        one = (num_inference_steps is None) != (timesteps is None)
        check(one, name, "num_inference_steps, timesteps", "one of them", (num_inference_steps, timesteps))
        config = self.config
        if timesteps is not None:
            chosen = torch.as_tensor(timesteps)
            check(bool((chosen.diff() < 0).all()), name, "timesteps", "falling", timesteps)
        else:
            assert num_inference_steps is not None
            chosen = schedules.timesteps(
                config.timestep_spacing, num_inference_steps, config.num_train_timesteps, config.steps_offset
            )
        self.num_inference_steps = len(chosen)
        self._install(chosen, device)
        self._tabulate()

    def _tabulate(self) -> None:
        now = self.alphas_cumprod[self.timesteps.cpu()]
        before = torch.cat([now[1:], now.new_ones(1)])
        self._rows["step"] = coefficients.ddpm(now, before, self.config.prediction_type, self.config.variance_type)

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        generator: Generator | None = None,
        return_dict: bool = True,
        **options: Any,
    ) -> Any:
        """One step; see `genkern.ops.diffusion_step` for further options (guidance, ``variance_noise``, ...)."""
        if self.config.variance_type.startswith("learned"):
            check(model_output.shape[1] == 2 * sample.shape[1], "DDPMScheduler.step", "model_output",
                  f"of {2 * sample.shape[1]} channels", model_output.shape)  # fmt: skip
            model_output, options["log_variance"] = model_output.chunk(2, 1)
        index = self._index(timestep)
        noisy = not isinstance(index, int) or index < len(self.timesteps) - 1
        return self._output(*self._run("step", index, sample, model_output, generator, noisy, options), return_dict)
