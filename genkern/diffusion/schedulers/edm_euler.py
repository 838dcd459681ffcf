"""Euler's method for models with EDM's preconditioning."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .. import coefficients
from ._edm import EDMScheduler
from .euler_discrete import EulerDiscreteScheduler


class EDMEulerScheduler(EDMScheduler):
    """`EulerDiscreteScheduler` over Karras' noise levels; the model's raw output is preconditioned in the step.

    >>> import torch
    >>> scheduler = EDMEulerScheduler()
    >>> scheduler.set_timesteps(18)
    >>> x = torch.randn(2, 3) * scheduler.init_noise_sigma
    >>> for t in scheduler.timesteps:
    ...     x = scheduler.step(torch.zeros_like(scheduler.scale_model_input(x, t)), t, x).prev_sample
    """

    def __init__(
        self,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        sigma_data: float = 0.5,
        sigma_schedule: str = "karras",
        num_train_timesteps: int = 1000,
        prediction_type: str = "epsilon",
        rho: float = 7.0,
        final_sigmas_type: str = "zero",
    ) -> None:
        super().__init__(locals())

    def _tabulate(self) -> None:
        self._rows["step"] = self._row(self.sigmas[:-1], self.sigmas[1:])

    def _row(self, sigma: Any, sigma_next: Any) -> Tensor:
        return coefficients.euler(sigma, sigma_next, *self._data(sigma))

    step = EulerDiscreteScheduler.step
