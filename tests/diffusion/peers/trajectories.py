"""What was sampled to record diffusers.safetensors: schedulers, a stand-in for a model, and the noise."""

import torch
from torch import Tensor

from genkern import random

SHAPE = (2, 3, 4)
STEPS = 8
CASES = {
    "ddpm": ("DDPMScheduler", {}, {}),
    "ddpm v large": (
        "DDPMScheduler",
        {"prediction_type": "v_prediction", "variance_type": "fixed_large"},
        {},
    ),
    "ddpm sample cosine": (
        "DDPMScheduler",
        {"prediction_type": "sample", "beta_schedule": "squaredcos_cap_v2", "clip_sample": False},
        {},
    ),
    "ddpm small log sigmoid": (
        "DDPMScheduler",
        {"variance_type": "fixed_small_log", "beta_schedule": "sigmoid", "timestep_spacing": "linspace"},
        {},
    ),
    "ddpm learned range": ("DDPMScheduler", {"variance_type": "learned_range"}, {}),
    "ddpm thresholding": ("DDPMScheduler", {"thresholding": True, "sample_max_value": 2.0}, {}),
    "ddim": ("DDIMScheduler", {}, {}),
    "ddim eta clipped": ("DDIMScheduler", {}, {"eta": 0.7, "use_clipped_model_output": True}),
    "ddim offset alpha": (
        "DDIMScheduler",
        {"set_alpha_to_one": False, "steps_offset": 1, "beta_schedule": "scaled_linear", "prediction_type": "sample"},
        {},
    ),
    "ddim zero snr": (
        "DDIMScheduler",
        {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"},
        {},
    ),
    "euler": ("EulerDiscreteScheduler", {}, {}),
    "euler leading v": (
        "EulerDiscreteScheduler",
        {"prediction_type": "v_prediction", "timestep_spacing": "leading", "use_exponential_sigmas": True},
        {},
    ),
    "euler karras churn": ("EulerDiscreteScheduler", {"use_karras_sigmas": True}, {"s_churn": 5.0}),
    "euler ancestral": ("EulerAncestralDiscreteScheduler", {}, {}),
    "heun": ("HeunDiscreteScheduler", {}, {}),
    "heun karras clipped": ("HeunDiscreteScheduler", {"use_karras_sigmas": True, "clip_sample": True}, {}),
    "dpm": ("DPMSolverMultistepScheduler", {}, {}),
    "dpm heun karras": ("DPMSolverMultistepScheduler", {"solver_type": "heun", "use_karras_sigmas": True}, {}),
    "dpm sde": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "timestep_spacing": "trailing", "prediction_type": "v_prediction"},
        {},
    ),
    "dpm to sigma min": (
        "DPMSolverMultistepScheduler",
        {
            "final_sigmas_type": "sigma_min",
            "lower_order_final": False,
            "beta_schedule": "squaredcos_cap_v2",
            "lambda_min_clipped": -5.1,
        },
        {},
    ),
    "edm euler churn": ("EDMEulerScheduler", {}, {"s_churn": 4.0}),
    "edm dpm": ("EDMDPMSolverMultistepScheduler", {}, {}),
    "edm dpm sde": ("EDMDPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, {}),
}


def noise(step: int) -> Tensor:
    return random.normal(random.key(step), SHAPE, impl="torch")


def model(scheduler, x: Tensor, timestep: Tensor) -> Tensor:
    output = torch.tanh(0.7 * scheduler.scale_model_input(x, timestep) + 0.001 * float(timestep))
    learned = str(scheduler.config.get("variance_type")).startswith("learned")
    return torch.cat([output, torch.sin(3 * output)], 1) if learned else output
