"""DPM-Solver++(2M) for models with EDM's preconditioning."""

from __future__ import annotations

import torch

from ._edm import EDMScheduler
from ._multistep import Multistep


class EDMDPMSolverMultistepScheduler(Multistep, EDMScheduler):
    """`DPMSolverMultistepScheduler` over Karras' noise levels; the raw output is preconditioned in the step.

    >>> scheduler = EDMDPMSolverMultistepScheduler()
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
        solver_order: int = 2,
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        sample_max_value: float = 1.0,
        algorithm_type: str = "dpmsolver++",
        solver_type: str = "midpoint",
        lower_order_final: bool = True,
        euler_at_final: bool = False,
        final_sigmas_type: str = "zero",
    ) -> None:
        super().__init__(locals())
        self._check_solver()

    def _tabulate(self) -> None:
        sigmas = self.sigmas
        self._tabulate_levels(torch.ones_like(sigmas), sigmas, *self._data(sigmas[:-1]))
