"""Writes diffusers.safetensors: whole trajectories of the schedulers of diffusers 0.42.1, noise injected.

pip install diffusers==0.42.1 && PYTHONPATH=.:tests/diffusion python tests/diffusion/peers/make.py
"""

import sys
from pathlib import Path

import diffusers
import torch
from peers.trajectories import CASES, STEPS, model, noise
from safetensors.torch import save_file

tensors = {}
for name, (scheduler_name, arguments, options) in CASES.items():
    scheduler = getattr(diffusers, scheduler_name)(**arguments)
    scheduler.set_timesteps(STEPS)
    x = noise(0) * float(scheduler.init_noise_sigma)
    states = [x]
    for i, timestep in enumerate(scheduler.timesteps):
        drawn = noise(i + 1)
        sys.modules[type(scheduler).__module__].randn_tensor = lambda *a, drawn=drawn, **k: drawn
        x = scheduler.step(model(scheduler, x, timestep), timestep, x, **options).prev_sample
        states.append(x)
    tensors[name] = torch.stack(states)
save_file(tensors, Path(__file__).with_name("diffusers.safetensors"))
