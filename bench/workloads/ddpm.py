"""Pictures from DDPM in fifty steps, ancestral and by DDIM, beside diffusers' schedulers with the same U-Net."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from genkern import random
from genkern.models.energy.ddpm import DDPM, PRESETS

from ..definitions import of_model
from ..registry import FORWARD, Function, Inputs, Rival, Workload, seeded

STEPS = 50


class Diffusers:
    """The loop that diffusers' documentation shows."""

    def __init__(self, method: str, steps: int, compiled: bool):
        import diffusers

        kinds = {"ddpm": diffusers.DDPMScheduler, "ddim": diffusers.DDIMScheduler}
        self.kind, self.steps, self.compiled = kinds[method], steps, compiled
        self.options = {"variance_type": "fixed_large"} if method == "ddpm" else {}
        self.step_options = {"use_clipped_model_output": True} if method == "ddim" else {}
        self.networks: dict[int, Any] = {}

    def __call__(self, x: Tensor, key: Tensor, model: DDPM) -> Tensor:
        alphas = model.alphas_cumprod
        betas = 1 - alphas / torch.cat([alphas.new_ones(1), alphas[:-1]])
        scheduler = self.kind(
            len(betas), trained_betas=betas.tolist(), clip_sample=True, timestep_spacing="trailing", **self.options
        )
        scheduler.set_timesteps(self.steps)
        if id(model) not in self.networks:
            network: nn.Module = model.network
            self.networks[id(model)] = torch.compile(network, dynamic=False) if self.compiled else network
        network = self.networks[id(model)]
        for t in scheduler.timesteps:
            output = network(x, model.time(t.expand(len(x)).to(x.device)), None)
            x = scheduler.step(output, t, x, **self.step_options).prev_sample
        return x


def with_compiled_network(sample: Function) -> Function:
    made: dict[int, DDPM] = {}

    def run(x: Tensor, key: Tensor, model: DDPM) -> Tensor:
        if id(model) not in made:
            made[id(model)] = copy.deepcopy(model)
            made[id(model)].network.compile(dynamic=False)
        return sample(x, key, made[id(model)])

    return run


def workload(method: str, batch: int, steps: int = STEPS, **description: Any) -> Workload:
    """`torch.compile` has the U-Net: a graph of fifty of them would take an hour."""
    config = PRESETS["ddpm-small"]

    def make(device: torch.device, dtype: torch.dtype) -> Inputs:
        model = DDPM(config).to(device, dtype).eval()
        return seeded((batch, *config.shape), device, dtype), random.key(0, device=device), model

    def sample(x: Tensor, key: Tensor, model: DDPM) -> Tensor:
        return model.denoise(x, key=key, steps=steps, method=method)

    def run(impl: str) -> Function:
        return of_model(sample, impl)

    rivals = {
        "diffusers": Rival(lambda: Diffusers(method, steps, False), same_values=method == "ddim"),
        "diffusers, U-Net compiled": Rival(lambda: Diffusers(method, steps, True), same_values=method == "ddim"),
        "genkern, U-Net compiled": Rival(lambda: with_compiled_network(sample)),
    }
    name = f"{steps} steps of {method}, batch {batch} of 8x8"
    return Workload(name, make, run, modes=(FORWARD,), compiles=(), rivals=rivals, **description)


WORKLOADS = [workload("ddpm", 16), workload("ddim", 16, quick=("eager", "diffusers"))]
SWEEP = [workload("ddpm", batch, steps=10) for batch in (1, 4, 16)]
REASONS = {
    "diffusers, U-Net compiled": "nearly all of a walk is the U-Net, which is compiled here and eager in genkern's row;"
    " with its U-Net compiled too, genkern is in `genkern, U-Net compiled`",
}
