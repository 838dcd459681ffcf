"""Diffusion models' samplers: schedules in float64, steps by name, schedulers, and the loop from noise to samples.

The arithmetic of every step is one op, `genkern.ops.diffusion_step`; here are the rows of coefficients that make it
DDPM, DDIM, Euler, Heun or DPM-Solver++.
"""

from . import coefficients, schedules
from .sampling import sample
from .schedulers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    Scheduler,
    SchedulerOutput,
)
from .sde import SDE, VESDE, VPSDE, SubVPSDE, predictor_corrector
from .steps import (
    churn_step,
    ddim_step,
    ddpm_step,
    dpm_solver_pp_2m_step,
    euler_ancestral_step,
    euler_step,
    heun_step,
    thresholded_step,
)

__all__ = [
    "DDIMScheduler",
    "DDPMScheduler",
    "DPMSolverMultistepScheduler",
    "EDMDPMSolverMultistepScheduler",
    "EDMEulerScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "SDE",
    "Scheduler",
    "SchedulerOutput",
    "SubVPSDE",
    "VESDE",
    "VPSDE",
    "churn_step",
    "coefficients",
    "ddim_step",
    "ddpm_step",
    "dpm_solver_pp_2m_step",
    "euler_ancestral_step",
    "euler_step",
    "heun_step",
    "predictor_corrector",
    "sample",
    "schedules",
    "thresholded_step",
]
