"""Steps against their formulas in float64: every one is affine in the sample, the output, the memory and the noise."""

import math

import pytest
import torch

import genkern.diffusion as diffusion
from genkern import random
from genkern.diffusion import coefficients, schedules

NOW, BEFORE = 0.37, 0.64


def read_out(step, count):
    """Coefficients of a step in each of `count` inputs."""
    units = torch.eye(count, dtype=torch.float64)
    return torch.stack([step(*(unit.reshape(1, 1) for unit in row))[0].reshape(()) for row in units])


def prediction_of(kind, alpha, sigma):
    """x0 and epsilon as (coefficient of x, coefficient of the output), by the definitions."""
    if kind == "epsilon":
        return (1 / alpha, -sigma / alpha), (0.0, 1.0)
    if kind == "sample":
        return (0.0, 1.0), (1 / sigma, -alpha / sigma)
    if kind == "score":
        return (1 / alpha, sigma**2 / alpha), (0.0, -sigma)
    return (alpha, -sigma), (sigma, alpha)


PREDICTIONS = ["epsilon", "sample", "v_prediction", "score"]


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"])
def test_ddpm_is_the_posterior(prediction, variance):
    beta = 1 - NOW / BEFORE
    small, large = beta * (1 - BEFORE) / (1 - NOW), beta
    (a, b), _ = prediction_of(prediction, math.sqrt(NOW), math.sqrt(1 - NOW))
    of_x0 = math.sqrt(BEFORE) * beta / (1 - NOW)
    wanted = [of_x0 * a + math.sqrt(1 - beta) * (1 - BEFORE) / (1 - NOW), of_x0 * b,
              math.sqrt(small if "small" in variance else large)]  # fmt: skip

    def step(x, output, z):
        return diffusion.ddpm_step(x, output, NOW, BEFORE, prediction=prediction, variance=variance, noise=z)

    torch.testing.assert_close(read_out(step, 3), torch.tensor(wanted, dtype=torch.float64), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("variance", ["learned", "learned_range"])
def test_learned_variances_are_logarithms_or_between_two(variance):
    beta = 1 - NOW / BEFORE
    small = beta * (1 - BEFORE) / (1 - NOW)
    x, zero = torch.zeros(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    for v in (-1.0, 0.3, 1.0):
        output = torch.tensor([[0.0, v]], dtype=torch.float64)
        found, _ = diffusion.ddpm_step(x, output, NOW, BEFORE, variance=variance, noise=zero + 1)
        f = (v + 1) / 2
        wanted = math.exp(v / 2) if variance == "learned" else math.sqrt(beta**f * small ** (1 - f))
        torch.testing.assert_close(found.item(), wanted, rtol=1e-12, atol=0)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("rederive", [False, True])
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_ddim_goes_along_the_noise(prediction, rederive, eta):
    sigma = eta * math.sqrt((1 - BEFORE) / (1 - NOW)) * math.sqrt(1 - NOW / BEFORE)
    (a, b), (c, d) = prediction_of(prediction, math.sqrt(NOW), math.sqrt(1 - NOW))
    direction = math.sqrt(1 - BEFORE - sigma**2)
    wanted = [math.sqrt(BEFORE) * a + direction * c, math.sqrt(BEFORE) * b + direction * d, sigma]

    def step(x, output, z):
        return diffusion.ddim_step(x, output, NOW, BEFORE, prediction=prediction, eta=eta, rederive=rederive, noise=z)

    torch.testing.assert_close(read_out(step, 3), torch.tensor(wanted, dtype=torch.float64), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "score"])
def test_euler_and_ancestral_steps_follow_the_slope(prediction):
    s, t = 3.0, 1.2
    (a, b), _ = prediction_of(prediction, 1.0, s)
    for eta in (0.0, 0.5, 1.0):
        up = min(t, eta * math.sqrt(t**2 * (s**2 - t**2) / s**2))
        slope = (math.sqrt(t**2 - up**2) - s) / s
        wanted = torch.tensor([1 + slope * (1 - a), -slope * b, up], dtype=torch.float64)

        def step(x, output, z, eta=eta):
            return diffusion.euler_ancestral_step(x, output, s, t, prediction=prediction, eta=eta, noise=z)

        torch.testing.assert_close(read_out(step, 3), wanted, rtol=1e-12, atol=1e-12)
    plain = read_out(lambda x, o: diffusion.euler_step(x, o, s, t, prediction=prediction), 2)
    slope = (t - s) / s
    torch.testing.assert_close(plain, torch.tensor([1 + slope * (1 - a), -slope * b], dtype=torch.float64))


def test_heun_is_the_trapezoid():
    s, t = 3.0, 1.2

    def trapezoid(x, first, second):
        d = (x - first) / s
        return (x + (t - s) * (d + (x + (t - s) * d - second) / t) / 2,)

    def stages(x, first, second):
        euler, _ = diffusion.heun_step(x, first, s, t, prediction="sample")
        return diffusion.heun_step(euler, second, s, t, previous=x, prediction="sample")

    torch.testing.assert_close(read_out(stages, 3), read_out(trapezoid, 3), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sde", [False, True])
@pytest.mark.parametrize("solver_type", ["midpoint", "heun"])
def test_dpm_solver_is_its_formula(sde, solver_type):
    (a2, s2), (a1, s1), (a0, s0) = ((math.sqrt(1 - v), math.sqrt(v)) for v in (0.9, 0.5, 0.2))
    h, last = (math.log(a0 / s0) - math.log(a1 / s1)), (math.log(a1 / s1) - math.log(a2 / s2))
    k = 2 * h if sde else h

    def formula(x, m0, m1, z):
        slope = (m0 - m1) * h / last
        weight = a0 * (1 - math.exp(-k)) / 2 if solver_type == "midpoint" else a0 * ((math.exp(-k) - 1) / k + 1)
        x = s0 / s1 * (math.exp(-h) if sde else 1) * x + a0 * (1 - math.exp(-k)) * m0 + weight * slope
        return (x + s0 * math.sqrt(1 - math.exp(-2 * h)) * z if sde else x,)

    def step(x, m0, m1, z):
        kind = {"sde": sde, "solver_type": solver_type, "prediction": "sample", "noise": z}
        return diffusion.dpm_solver_pp_2m_step(x, m0, (a1, a0), (s1, s0), previous=m1, last=(a2, s2), **kind)

    torch.testing.assert_close(read_out(step, 4), read_out(formula, 4), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sde", [False, True])
def test_a_step_to_no_noise_ends_at_the_data(sde):
    x, m0, z = torch.randn(3, 2, 4).unbind(0)
    found, _ = diffusion.dpm_solver_pp_2m_step(x, m0, (0.6, 1.0), (0.8, 0.0), prediction="sample", sde=sde, noise=z)
    torch.testing.assert_close(found, m0)


def test_ddim_with_all_the_noise_is_ddpm():
    table, key = schedules.alphas_cumprod(), random.key(0)
    x, output = 2 * torch.randn(1000, 20), torch.randn(1000, 20)
    now, before = table, torch.cat([torch.ones(1), table[:-1]])
    ddpm, _ = diffusion.ddpm_step(x, output, now, before, clip=1.0, key=key)
    ddim, _ = diffusion.ddim_step(x, output, now, before, eta=1.0, clip=1.0, key=key)
    torch.testing.assert_close(ddim, ddpm, rtol=0, atol=2e-6)
    loose, _ = diffusion.ddim_step(x, output, now, before, eta=1.0, clip=1.0, rederive=False, key=key)
    assert (loose - ddpm).abs().max() > 0.1


def test_ddpm_adds_no_noise_to_the_data():
    x, output = torch.randn(2, 5), torch.randn(2, 5)
    for variance in ("fixed_small", "fixed_large"):
        found, x0 = diffusion.ddpm_step(x, output, torch.tensor([0.99, 0.9]), torch.ones(2), variance=variance)
        torch.testing.assert_close(found, x0)


def test_dynamic_thresholding_clips_to_the_quantile():
    x, output = 3 * torch.randn(4, 500), torch.randn(4, 500)
    _, x0 = diffusion.ddim_step(x, output, 0.5, 0.6, thresholding=(0.9, 5.0))
    _, plain = diffusion.ddim_step(x, output, 0.5, 0.6)
    s = torch.quantile(plain.abs(), 0.9, dim=1, keepdim=True).clamp(1, 5)
    torch.testing.assert_close(x0, plain.clamp(-s, s) / s)


# -- the probability flow of Gaussian data of variance v: x(s) = x(S) sqrt((v + s^2) / (v + S^2)) ----------------------


def denoiser(x, sigma, v=1.0):
    return x * v / (v + sigma**2)


def euler(x, sigmas):
    for s, t in zip(sigmas[:-1], sigmas[1:], strict=True):
        x, _ = diffusion.euler_step(x, denoiser(x, s), s, t, prediction="sample")
    return x


def heun(x, sigmas):
    for s, t in zip(sigmas[:-1], sigmas[1:], strict=True):
        first, _ = diffusion.heun_step(x, denoiser(x, s), s, t, prediction="sample")
        x, _ = diffusion.heun_step(first, denoiser(first, t), s, t, previous=x, prediction="sample")
    return x


def dpm_solver(x, sigmas):
    previous = last = None
    for s, t in zip(sigmas[:-1], sigmas[1:], strict=True):
        x, previous = diffusion.dpm_solver_pp_2m_step(
            x, denoiser(x, s), (1.0, 1.0), (s, t), previous=previous, last=last, prediction="sample"
        )
        last = 1.0, s
    return x


@pytest.mark.parametrize(("sampler", "order"), [(euler, 1), (heun, 2), (dpm_solver, 2)])
def test_orders_of_convergence(sampler, order):
    errors = []
    for steps in (20, 40, 80):
        sigmas = schedules.karras_sigmas(steps + 1, 0.02, 10.0).tolist()
        found = sampler(torch.ones(1, 1, dtype=torch.float64), sigmas).item()
        errors.append(abs(found / math.sqrt((1 + sigmas[-1] ** 2) / (1 + sigmas[0] ** 2)) - 1))
    measured = math.log2(errors[1] / errors[2])
    assert abs(measured - order) < 0.15, errors


# -- schedules ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", schedules.BETA_SCHEDULES)
def test_tables_fall_and_say_the_same_in_all_forms(schedule):
    table = schedules.alphas_cumprod(schedule, 200)
    assert table.dtype == torch.float64 and (table.diff() < 0).all() and 0 < table[-1] < table[0] < 1
    torch.testing.assert_close(schedules.betas_of(table), schedules.betas(schedule, 200))
    torch.testing.assert_close(schedules.alphas_cumprod_of(schedules.sigmas_of(table)), table)


def test_no_signal_is_left_at_zero_snr():
    table = schedules.alphas_cumprod("linear", 1000, rescale_zero_snr=True)
    assert table[-1] == 0 and math.isclose(table[0], schedules.alphas_cumprod()[0])


@pytest.mark.parametrize("spacing", schedules.SPACINGS)
@pytest.mark.parametrize("steps", [1, 7, 50, 1000])
def test_timesteps_fall_within_training(spacing, steps):
    found = schedules.timesteps(spacing, steps)
    assert len(found) == steps and (found.diff() < 0).all() and 0 <= found[-1] and found[0] <= 999


def test_rows_are_named():
    with pytest.raises(ValueError, match="row: columns must be among"):
        coefficients.row(y=1.0)
