"""Schedulers against recorded trajectories of diffusers (tests/diffusion/peers/make.py), and what they promise."""

import importlib.util
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import genkern.diffusion as diffusion
from genkern import random

PEERS = Path(__file__).parent / "peers"
spec = importlib.util.spec_from_file_location("trajectories", PEERS / "trajectories.py")
trajectories = importlib.util.module_from_spec(spec)
spec.loader.exec_module(trajectories)
RECORDED = load_file(PEERS / "diffusers.safetensors")


@pytest.mark.parametrize("name", trajectories.CASES)
def test_trajectories_are_those_of_diffusers(name):
    scheduler_name, arguments, options = trajectories.CASES[name]
    scheduler = getattr(diffusion, scheduler_name)(**arguments)
    scheduler.set_timesteps(trajectories.STEPS)
    x = trajectories.noise(0) * float(scheduler.init_noise_sigma)
    for i, timestep in enumerate(scheduler.timesteps):
        wanted = RECORDED[name][i]
        assert (x - wanted).abs().max() <= 1e-4 * wanted.abs().max(), f"before step {i}"
        output = trajectories.model(scheduler, x, timestep)
        x = scheduler.step(output, timestep, x, variance_noise=trajectories.noise(i + 1), **options).prev_sample
    assert (x - RECORDED[name][-1]).abs().max() <= 1e-4 * RECORDED[name][-1].abs().max()


NOISY = [
    diffusion.DDPMScheduler(),
    diffusion.EulerAncestralDiscreteScheduler(),
    diffusion.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"),
]
KINDS = [*NOISY, diffusion.DDIMScheduler(), diffusion.EulerDiscreteScheduler(), diffusion.HeunDiscreteScheduler(),
         diffusion.DPMSolverMultistepScheduler(), diffusion.EDMEulerScheduler(),
         diffusion.EDMDPMSolverMultistepScheduler()]  # fmt: skip


def name_of(scheduler):
    return type(scheduler).__name__


def denoise(x, t):
    return torch.tanh(x + 0.001 * t.to(x.dtype))


@pytest.mark.parametrize("scheduler", KINDS, ids=name_of)
def test_a_sample_is_the_same_in_any_batch(scheduler):
    scheduler.set_timesteps(6)
    whole = diffusion.sample(denoise, scheduler, (5, 3, 7), key=random.key(3))
    part = diffusion.sample(denoise, scheduler, (2, 3, 7), key=random.key(3), sample_offset=3)
    torch.testing.assert_close(part, whole[3:], rtol=1e-5, atol=1e-5)  # tanh itself depends on the place in a vector
    assert whole.isfinite().all()


@pytest.mark.parametrize("scheduler", NOISY, ids=name_of)
def test_a_list_of_seeds_makes_each_sample_as_alone(scheduler):
    scheduler.set_timesteps(6)
    x, output = torch.randn(3, 5), torch.randn(3, 5)
    together = scheduler.step(output, scheduler.timesteps[2], x, generator=[7, 8, 9]).prev_sample
    for b in range(3):
        alone = scheduler.step(output[b : b + 1], scheduler.timesteps[2], x[b : b + 1], generator=7 + b).prev_sample
        assert torch.equal(together[b : b + 1], alone)


def test_generators_move_on_and_may_be_one_for_each_sample():
    scheduler = diffusion.DDPMScheduler()
    x, t = torch.zeros(2, 4), scheduler.timesteps[5]

    def draw(generators):
        return scheduler.step(x, t, x, generator=generators).prev_sample

    pair = [torch.Generator().manual_seed(i) for i in (1, 2)]
    first, second = draw(pair), draw(pair)
    assert not torch.equal(first, second)
    assert torch.equal(first, draw([torch.Generator().manual_seed(i) for i in (1, 2)]))
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_noise_does_not_depend_on_the_dtype(dtype):
    scheduler = diffusion.DDPMScheduler(clip_sample=False)
    x, t = torch.zeros(3, 50), scheduler.timesteps[400]
    wanted = scheduler.step(x, t, x, generator=4).prev_sample
    found = scheduler.step(x.to(dtype), t, x.to(dtype), generator=4).prev_sample
    torch.testing.assert_close(found.float(), wanted, rtol=max(torch.finfo(dtype).eps, 1e-6), atol=1e-7)


@pytest.mark.parametrize("scheduler", KINDS, ids=name_of)
def test_trajectories_that_take_turns_do_not_mix(scheduler):
    scheduler.set_timesteps(6)
    starts = [torch.randn(2, 5, generator=torch.Generator().manual_seed(i)) for i in (1, 2)]

    def advance(x, t):
        return scheduler.step(denoise(scheduler.scale_model_input(x, t), t), t, x, generator=0).prev_sample

    alone = []
    for x in starts:
        for t in scheduler.timesteps:
            x = advance(x, t)
        alone.append(x)
    together = list(starts)
    for t in scheduler.timesteps:
        together = [advance(x, t) for x in together]
    assert all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))


@pytest.mark.parametrize("scheduler", KINDS, ids=name_of)
def test_timesteps_may_be_numbers_or_other_tensors(scheduler):
    scheduler.set_timesteps(6)
    x, output = torch.randn(2, 5), torch.randn(2, 5)
    t = scheduler.timesteps[0]
    wanted = scheduler.step(output, t, x, generator=1).prev_sample
    assert torch.equal(scheduler.step(output, t.item(), x, generator=1).prev_sample, wanted)
    assert torch.equal(scheduler.step(output, t.clone(), x, generator=1).prev_sample, wanted)
    with pytest.raises(ValueError, match="timestep must be one of timesteps"):
        scheduler.step(output, -7, x)


def test_each_sample_may_be_at_its_own_timestep():
    scheduler = diffusion.DDPMScheduler()
    x, output, t = torch.randn(3, 5), torch.randn(3, 5), torch.tensor([0, 500, 999])
    found = scheduler.step(output, t, x, generator=1).prev_sample
    for b in range(3):
        one = slice(b, b + 1)
        alone = scheduler.step(output[one], t[b].item(), x[one], generator=1, sample_offset=b).prev_sample
        torch.testing.assert_close(found[one], alone)


def test_a_changed_sample_keeps_its_memory_where_it_is_the_last():
    scheduler = diffusion.DPMSolverMultistepScheduler()
    scheduler.set_timesteps(20)
    x, outputs = torch.randn(2, 5), torch.randn(3, 2, 5)
    first = scheduler.step(outputs[0], scheduler.timesteps[0], x)
    changed = first.prev_sample + 1
    wanted = scheduler.step(outputs[1], scheduler.timesteps[1], changed, previous=first.pred_original_sample)
    scheduler.step(outputs[0], scheduler.timesteps[0], x)
    found = scheduler.step(outputs[1], scheduler.timesteps[1], changed)
    assert torch.equal(found.prev_sample, wanted.prev_sample)


def test_noise_is_added_as_the_process_does():
    x, z = torch.randn(3, 5), torch.randn(3, 5)
    ddpm, t = diffusion.DDPMScheduler(), torch.tensor([0, 500, 999])
    alpha = ddpm.alphas_cumprod[t].sqrt().unsqueeze(1)
    sigma = (1 - ddpm.alphas_cumprod[t]).sqrt().unsqueeze(1)
    torch.testing.assert_close(ddpm.add_noise(x, z, t).double(), alpha * x + sigma * z, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ddpm.get_velocity(x, z, t).double(), alpha * z - sigma * x, rtol=1e-6, atol=1e-6)
    for scheduler in (diffusion.EulerDiscreteScheduler(), diffusion.EDMEulerScheduler()):
        scheduler.set_timesteps(10)
        wanted = x + scheduler.sigmas[[3, 0, 9]].unsqueeze(1) * z
        torch.testing.assert_close(scheduler.add_noise(x, z, scheduler.timesteps[[3, 0, 9]]).double(), wanted,
                                   rtol=1e-6, atol=1e-6)  # fmt: skip


def test_a_configuration_makes_another_scheduler():
    config = diffusion.DDPMScheduler(beta_schedule="scaled_linear", clip_sample=False).config
    euler = diffusion.EulerDiscreteScheduler.from_config(config, timestep_spacing="trailing")
    assert euler.config.beta_schedule == "scaled_linear" and euler.config.timestep_spacing == "trailing"
