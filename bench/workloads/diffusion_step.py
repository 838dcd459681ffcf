"""Steps of DDPM (noise drawn inside), DDIM and DPM-Solver++(2M), in place, on 64x64 pictures."""

from typing import Any

import torch
from torch import Tensor

from genkern import random
from genkern.diffusion import coefficients
from genkern.ops import diffusion_step

from ..registry import FORWARD, Function, Inputs, Rival, Workload, seeded, shape_name
from ..rivals import with_torch_noise

SHAPE, TINY = (64, 3, 64, 64), (4, 3, 8, 8)
NOW, BEFORE = 0.37, 0.41


def diffusers(sampler: str) -> Function:
    """`step` of the scheduler of this name, at the same levels of noise."""
    from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

    if sampler == "dpm++ 2m":
        scheduler: Any = DPMSolverMultistepScheduler(3)
        scheduler.set_timesteps(3)
        levels = torch.tensor([0.33, NOW, BEFORE])
        scheduler.sigmas = ((1 - levels) / levels).sqrt()

        def multistep(x: Tensor, output: Tensor, previous: Tensor, *rest: Tensor) -> Any:
            scheduler._step_index, scheduler.lower_order_nums = 1, 1
            scheduler.model_outputs = [None, previous]
            return scheduler.step(output, scheduler.timesteps[1], x).prev_sample, scheduler.model_outputs[-1]

        return multistep
    scheduler = (DDIMScheduler if sampler == "ddim" else DDPMScheduler)(2, clip_sample=True)
    scheduler.alphas_cumprod = torch.tensor([BEFORE, NOW])
    scheduler.set_timesteps(2)
    options = {"use_clipped_model_output": True} if sampler == "ddim" else {}  # or its direction is not the noise of x0
    return lambda x, output, *rest: scheduler.step(output, 1, x, **options).prev_sample


def ancestral(x: Tensor, output: Tensor, *rest: Tensor) -> Tensor:
    """A step of DDPM as one writes it."""
    x0 = ((x - (1 - NOW) ** 0.5 * output) / NOW**0.5).clamp(-1, 1)
    alpha = NOW / BEFORE
    mean = (BEFORE**0.5 * (1 - alpha) / (1 - NOW)) * x0 + (alpha**0.5 * (1 - BEFORE) / (1 - NOW)) * x
    return mean + ((1 - BEFORE) / (1 - NOW) * (1 - alpha)) ** 0.5 * torch.randn_like(x)


def workload(sampler: str, shape: tuple[int, ...], **description: Any) -> Workload:
    def make(device: torch.device, dtype: torch.dtype) -> Inputs:
        if sampler == "ddpm":
            row = coefficients.ddpm(NOW, BEFORE)
        elif sampler == "ddim":
            row = coefficients.ddim(NOW, BEFORE)
        else:
            scales = [(a**0.5, (1 - a) ** 0.5) for a in (0.33, NOW, BEFORE)]
            (a2, s2), (a1, s1), (a0, s0) = scales
            data = coefficients.denoised("epsilon", a1, s1)
            row = coefficients.dpm_solver_pp_2m((a1, a0), (s1, s0), *data, (a2, s2))
        tensors = [seeded(shape, device, dtype) for _ in range(3 if sampler == "dpm++ 2m" else 2)]
        return (*tensors, row.to(device, torch.float32), random.key(0, device=device))

    def run(impl: str) -> Function:
        def step(x: Tensor, output: Tensor, *rest: Tensor) -> Any:
            *previous, row, key = rest
            options: dict[str, Any] = {"key": key} if sampler == "ddpm" else {}
            if previous:
                options["previous"] = previous[0]
            after, x0 = diffusion_step(x, output, row, clip=1.0, return_x0=bool(previous), impl=impl, **options)
            return after if x0 is None else (after, x0)

        return step

    # diffusers' noise is torch's own, and its DPM-Solver++ does not clip
    rivals = {"diffusers": Rival(lambda: diffusers(sampler), same_values=sampler == "ddim")}
    if sampler == "ddpm":
        rivals |= with_torch_noise(ancestral)
    return Workload(f"{sampler} {shape_name(shape)}", make, run, modes=(FORWARD,), rivals=rivals, **description)


WORKLOADS = [
    workload("ddpm", SHAPE, quick=("eager",), compiles=()),
    workload("ddim", SHAPE),
    workload("dpm++ 2m", SHAPE),
    workload("ddim", TINY, launch=True),
]
SWEEP = [workload("ddpm", (b, 3, 64, 64)) for b in (1, 8, 64, 256)]
