"""Steps of DDPM (noise drawn inside), DDIM and DPM-Solver++(2M), in place, on 64x64 pictures."""

from typing import Any

import torch
from torch import Tensor

from genkern import random
from genkern.diffusion import coefficients
from genkern.ops import diffusion_step

from ..registry import FORWARD, Function, Inputs, Workload, seeded, shape_name

SHAPE, TINY = (64, 3, 64, 64), (4, 3, 8, 8)
NOW, BEFORE = 0.37, 0.41


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

    return Workload(f"{sampler} {shape_name(shape)}", make, run, modes=(FORWARD,), **description)


WORKLOADS = [
    workload("ddpm", SHAPE, quick=("eager",), compiles=()),
    workload("ddim", SHAPE),
    workload("dpm++ 2m", SHAPE),
    workload("ddim", TINY, launch=True),
]
SWEEP = [workload("ddpm", (b, 3, 64, 64)) for b in (1, 8, 64, 256)]
