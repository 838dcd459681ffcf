"""Diffusion models: bounds and likelihoods of known Gaussians, samples that follow from keys, labels and guidance."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from genkern import models, random
from genkern.models.energy import ddpm, ddpm_pp_continuous, edm, improved_ddpm
from genkern.models.energy._base import DiffusionModel

NET = {"channels": 8, "multipliers": (1, 2), "blocks": 1, "attention": (2,), "dropout": 0.0}
PIXELS = {"shape": (1, 4, 4), "levels": 5, **NET}
CONFIGS = {
    "ddpm": ddpm.Config(**PIXELS, timesteps=20, beta_start=5e-3, beta_end=0.4),
    "ddpm v by class": ddpm.Config(**PIXELS, classes=3, timesteps=20, schedule="cosine", prediction="v_prediction"),
    "improved": improved_ddpm.Config(**{**PIXELS, "heads": 2}, timesteps=20),
    "improved vlb": improved_ddpm.Config(**{**PIXELS, "heads": 2}, timesteps=20, objective="vlb"),
    "edm by class": edm.Config(**PIXELS, classes=3, embedding="fourier"),
    "vp": ddpm_pp_continuous.Config(**PIXELS, sample_steps=25, likelihood_steps=2),
    "subvp by class": ddpm_pp_continuous.Config(**PIXELS, classes=3, sde="subvp", sample_steps=25, likelihood_steps=2),
    "ve": ddpm_pp_continuous.Config(**PIXELS, sde="ve", sample_steps=25, likelihood_steps=2),
}
MODULES = {module.Config: module for module in (ddpm, improved_ddpm, edm, ddpm_pp_continuous)}


def build(config) -> DiffusionModel:
    (model,) = (m for m in vars(MODULES[type(config)]).values() if getattr(m, "config_class", None) is type(config))
    return model(config)


def moved(name: str) -> DiffusionModel:
    """The model with parameters of no special values."""
    torch.manual_seed(0)
    model = build(CONFIGS[name])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model.eval()


def batch(model: DiffusionModel, n: int = 6) -> models.Batch:
    config, generator = model.config, torch.Generator().manual_seed(1)
    x = torch.randint(0, config.levels, (n, *config.shape), dtype=torch.uint8, generator=generator)
    return models.Batch(x, None if config.classes is None else torch.arange(n) % config.classes)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_loss_of_a_shard_is_its_part_of_the_whole(name):
    model, key = moved(name), random.key(3)
    x, y = batch(model)
    whole = model.loss(models.Batch(x, y), key=key).total
    parts = [
        model.loss(models.Batch(x[i : i + 3], None if y is None else y[i : i + 3]), key=key, sample_offset=i).total
        for i in (0, 3)
    ]
    assert torch.allclose(sum(parts) / 2, whole, rtol=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_loss_reaches_every_parameter(name):
    model = moved(name).train()
    x, y = batch(model, 24)
    model.loss(models.Batch(x, y), key=random.key(0)).total.backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_sample_is_the_same_whoever_draws_it(name):
    model, key = moved(name), random.key(5)
    labels = None if model.config.classes is None else torch.tensor([0, 2, 1])
    x = model.sample(3, key=key, y=labels)
    assert x.shape == (3, 1, 4, 4) and x.dtype == torch.uint8 and int(x.max()) < 5
    alone = model.sample(1, key=key, y=None if labels is None else labels[2:], sample_offset=2)
    assert (alone[0].int() - x[2].int()).abs().amax() <= 1  # rounding of the network's sums
    assert not torch.equal(model.sample(3, key=random.key(6), y=labels), x)


@pytest.mark.parametrize("name", CONFIGS)
def test_weights_are_saved_and_loaded_bit_for_bit(name, tmp_path):
    model = moved(name)
    model.save(tmp_path)
    again, key = models.load(tmp_path), random.key(0)
    assert again.config == model.config
    assert torch.equal(again.loss(batch(model), key=key).total, model.loss(batch(model), key=key).total)


@pytest.mark.parametrize("name", [name for name in CONFIGS if "class" in name])
def test_guidance_of_one_is_the_conditional_model_and_of_zero_the_unconditional(name):
    model = moved(name).double()
    x, sigma = torch.randn(3, 1, 4, 4, dtype=torch.float64), torch.tensor([0.2, 0.5, 1.0], dtype=torch.float64)
    y = torch.tensor([0, 1, 2])
    assert (model.noise_at(x, sigma, y) - model.noise_at(x, sigma)).abs().amax() > 1e-6
    key, unknown = random.key(0), moved(name).double()
    for parameter in unknown.parameters():
        if parameter.shape[0] == 4 and parameter.dim() == 2:  # the embedding: every class is the unknown one
            parameter.data[:3] = parameter.data[3]
    zero = model.sample(3, key=key, y=y, guidance=0.0)
    assert (zero.int() - unknown.sample(3, key=key, y=y).int()).abs().amax() <= 1


@pytest.mark.parametrize("name", ["ddpm", "improved"])
def test_the_estimate_of_the_bound_is_that_of_all_terms(name):
    model = moved(name)
    x, _ = batch(model)
    whole = torch.stack([model.elbo(x, key=random.key(i), terms=None) for i in range(8)]).mean()
    few = torch.stack([model.elbo(x, key=random.key(i), terms=4) for i in range(48)]).mean()
    assert abs(float(few / whole) - 1) < 0.05


class Exact(ddpm.DDPM):
    """A chain for data N(0, v), whose network knows the answer."""

    def __init__(self, config, variance: float):
        super().__init__(config)
        alpha, sigma = self.alphas_cumprod.sqrt(), (1 - self.alphas_cumprod).sqrt()
        self.gain = (sigma / (alpha**2 * variance + sigma**2)).float()  # E[eps | x_t] / x_t
        self.network.forward = lambda x, t, y=None: x * self._gain(t)[:, None]  # type: ignore[method-assign]

    def _gain(self, t: Tensor) -> Tensor:
        step = t * self.config.timesteps / 1000
        low = step.floor().long().clamp(max=self.config.timesteps - 2)
        return torch.lerp(self.gain[low].to(step), self.gain[low + 1].to(step), step - low)


def exact(variance: float = 0.25) -> Exact:
    config = ddpm.Config(
        shape=(2,), levels=None, network="mlp", hidden=16, timesteps=400, beta_start=2.5e-4, beta_end=0.05,
        variance="fixed_small",
    )  # fmt: skip
    return Exact(config, variance).eval()


def test_bound_and_flow_give_the_density_of_gaussian_data():
    model = exact()
    x = 0.5 * torch.randn(2000, 2, generator=torch.Generator().manual_seed(0))
    density = torch.distributions.Normal(0.0, 0.5).log_prob(x).sum(1)
    flow = model.ode_log_prob(x, key=random.key(0), divergence="exact", steps=40)
    assert (flow - density).abs().mean() < 0.02
    bound = model.elbo(x, key=random.key(0), terms=40)
    assert bound.mean() < density.mean()


def test_the_bound_of_gaussian_data_is_the_sum_of_its_terms():
    """With the right mean and posterior variances, a term is half of c^2 Var(x_0 | x_t) / beta~ for each dimension."""
    model, variance = exact(), 0.25
    signal = model.alphas_cumprod
    before = torch.cat([signal.new_ones(1), signal[:-1]])
    beta = 1 - signal / before
    posterior = (1 - before) / (1 - signal) * beta
    posterior[0] = posterior[1]
    rest = variance * (1 - signal) / (signal * variance + 1 - signal)  # Var(x_0 | x_t)
    terms = (before.sqrt() * beta / (1 - signal)).square() * rest / posterior
    decoder = math.log(2 * math.pi * float(posterior[0])) + float(rest[0] / posterior[0])
    prior = float(signal[-1]) * (variance - 1) - math.log1p(-float(signal[-1]))
    wanted = -(float(terms[1:].sum()) + decoder + prior)  # two dimensions, a half each
    x = 0.5 * torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
    assert abs(float(model.elbo(x, key=random.key(0), terms=40).mean()) - wanted) < 0.1


@pytest.mark.parametrize("method", ddpm.METHODS)
def test_samples_of_gaussian_data_have_their_variance(method):
    x = exact().sample(4000, key=random.key(1), method=method, steps=50 if method == "dpm++" else 400)
    assert abs(float(x.std()) - 0.5) < 0.02 and abs(float(x.mean())) < 0.02


def test_edm_solves_the_flow_of_gaussian_data_to_second_order():
    """D(x; s) = x v / (v + s^2): the flow takes x at s to x sqrt(v / (v + s^2))."""
    torch.manual_seed(0)
    config = edm.Config(shape=(2,), levels=None, network="mlp", hidden=16, sigma_min=0.02, sigma_max=10.0)
    model = edm.EDM(config).double()  # a network of zeros is the denoiser of N(0, 1/4)
    z = random.normal(random.fold_in(random.key(0), 3), (50, 2), dtype=torch.float64) * 10
    target = z * math.sqrt(0.25 / (0.25 + 100))

    def error(steps: int, method: str) -> float:
        return float((model.sample(50, key=random.key(0), steps=steps, method=method) - target).abs().mean())

    assert math.log2(error(20, "heun") / error(40, "heun")) > 1.7
    assert 0.7 < math.log2(error(20, "euler") / error(40, "euler")) < 1.3


@pytest.mark.parametrize("name", ["vp", "subvp by class", "ve"])
def test_the_time_of_a_noise_level_is_that_of_the_equation(name):
    model = moved(name)
    t = torch.linspace(0.01, 1, 20, dtype=torch.float64)
    mean, std = model.sde.marginal(t)
    assert torch.allclose(model.time_of(std / mean), t, atol=1e-9)


def test_importance_sampling_draws_steps_by_the_size_of_their_terms():
    model = moved("improved vlb").train()
    draws, weight = model.draw_times(4000, random.key(0))
    assert weight is not None and torch.allclose(weight, torch.ones(4000)) and len(draws.unique()) == 20
    for t in range(20):
        model.remember(torch.full((15,), t), torch.full((15,), float(1 + t)))
    draws, weight = model.draw_times(20000, random.key(0))
    wanted = torch.arange(1.0, 21) / 210
    assert (torch.bincount(draws, minlength=20) / 20000 - wanted).abs().amax() < 0.01
    assert torch.allclose(weight, 1 / (20 * (0.999 * wanted + 0.001 / 20))[draws], rtol=1e-4)


def test_the_history_keeps_the_last_terms_of_a_step():
    model = build(dataclasses.replace(CONFIGS["improved vlb"], history=3))
    model.remember(torch.tensor([4, 4, 1, 4, 4]), torch.tensor([1.0, 2.0, 9.0, 3.0, 4.0]))
    assert sorted(model.terms[4].tolist()) == [2.0, 3.0, 4.0] and model.counts.tolist()[:5] == [0, 1, 0, 0, 4]


def test_training_finds_two_points():
    """Data at -1 and 1: nearly all samples end near one of them."""
    torch.manual_seed(0)
    model = models.build("ddpm-2d", shape=(1,), hidden=32, layers=2, data_scale=1.0, timesteps=50)
    x = torch.tensor([[-1.0], [1.0]]).repeat(64, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for step in range(300):
        optimizer.zero_grad()
        model.loss(x, key=random.key(step)).total.backward()
        optimizer.step()
    drawn = model.sample(1000, key=random.key(7), method="ddim").flatten()
    assert ((drawn.abs() - 1).abs() < 0.25).float().mean() > 0.9
    assert 0.35 < float((drawn > 0).float().mean()) < 0.65


def test_what_does_not_fit_is_named():
    model = moved("ddpm")
    with pytest.raises(ValueError, match="method must be one of"):
        model.sample(2, key=random.key(0), method="euler")
    with pytest.raises(ValueError, match=r"steps must be in \[1, 20\]; got 21"):
        model.sample(2, key=random.key(0), steps=21)
    with pytest.raises(ValueError, match="y must be None, since the model has no classes"):
        model.sample(2, key=random.key(0), y=1)
    with pytest.raises(TypeError, match="x must be integer pixels"):
        model.loss(torch.rand(2, 1, 4, 4), key=random.key(0))
    with pytest.raises(ValueError, match="variance must be one of"):
        ddpm.DDPM(ddpm.Config(variance="large"))


def test_random_frequencies_see_times_up_to_1_and_fixed_ones_up_to_1000():
    for name in ("ddpm-2d", "ddpm-pp-continuous-2d"):
        by_kind = {kind: models.build(name, embedding=kind) for kind in ("positional", "fourier")}
        if name == "ddpm-2d":
            last = [float(model.time(torch.tensor(99))) for model in by_kind.values()]
        else:
            last = [float(model.network_time(torch.tensor(0.99))) for model in by_kind.values()]
        assert last[0] > 980 and abs(last[1] - 0.99) < 1e-6
