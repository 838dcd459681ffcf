"""Schedulers, one sampler a file, with the arguments and methods that users of diffusers know."""

from ._base import Scheduler, SchedulerOutput
from .ddim import DDIMScheduler
from .ddpm import DDPMScheduler
from .dpm_solver_multistep import DPMSolverMultistepScheduler
from .edm_dpm_solver_multistep import EDMDPMSolverMultistepScheduler
from .edm_euler import EDMEulerScheduler
from .euler_ancestral_discrete import EulerAncestralDiscreteScheduler
from .euler_discrete import EulerDiscreteScheduler
from .heun_discrete import HeunDiscreteScheduler

__all__ = [
    "DDIMScheduler",
    "DDPMScheduler",
    "DPMSolverMultistepScheduler",
    "EDMDPMSolverMultistepScheduler",
    "EDMEulerScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "Scheduler",
    "SchedulerOutput",
]
