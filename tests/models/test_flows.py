"""Every flow model: one bijection between data and latents, with the accounting that discrete data need."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from genkern import models, ops, random
from genkern.models.flows import emerging, ffjord, glow, iaf, maf, nice, nsf, realnvp
from genkern.models.flows._base import FlowModel
from genkern.testing import jacobian_log_det

TINY: dict[str, FlowModel] = {
    "nice vector": nice.NICE(nice.Config((5,), None, hidden=8, layers=1, prior="gaussian")),
    "nice logistic": nice.NICE(nice.Config((1, 4, 2), 17, hidden=8, layers=1)),
    "realnvp vector": realnvp.RealNVP(realnvp.Config((5,), None, couplings=4, hidden=8, blocks=1, alpha=None)),
    "realnvp": realnvp.RealNVP(realnvp.Config((1, 4, 4), 17, couplings=2, hidden=4, blocks=1)),
    "realnvp invert": realnvp.RealNVP(
        realnvp.Config((1, 4, 4), 17, couplings=2, hidden=4, blocks=1, batch_norm=False, policy="invert")
    ),
    "glow": glow.Glow(glow.Config((1, 4, 4), 17, scales=2, steps=2, hidden=4)),
    "glow free additive": glow.Glow(
        glow.Config((3, 4, 4), 256, scales=1, steps=2, hidden=4, coupling="additive", conv="free", alpha=0.05)
    ),
    "glow odd sides": glow.Glow(glow.Config((1, 2, 6), 17, scales=1, steps=2, hidden=4, policy="invert", every=2)),
    "nsf": nsf.NSF(nsf.Config((1, 4, 4), 17, scales=2, steps=1, bins=3, hidden=4, blocks=1, policy="checkpoint")),
    "nsf vector": nsf.NSF(nsf.Config((5,), None, steps=2, bins=3, hidden=8, blocks=1, policy="invert")),
    "nsf halves": nsf.NSF(nsf.Config((3,), None, steps=2, bins=3, hidden=8, blocks=1, linear=False)),
    "nsf autoregressive": nsf.NSF(
        nsf.Config((1, 2, 2), 17, steps=2, form="autoregressive", bins=3, hidden=8, blocks=1)
    ),
    "maf": maf.MAF(maf.Config((1, 4, 2), 17, layers=2, hidden=12)),
    "maf mixture": maf.MAF(
        maf.Config((5,), None, layers=3, hidden=9, hidden_layers=2, components=3, batch_norm=False, alpha=None)
    ),
    "iaf": iaf.IAF(iaf.Config((1, 4, 2), 17, steps=2, hidden=10)),
    "iaf invert": iaf.IAF(iaf.Config((5,), None, steps=3, hidden=8, alpha=None, policy="invert", every=2)),
    "emerging": emerging.Emerging(
        emerging.Config((1, 4, 4), 17, scales=2, steps=2, hidden=4, policy="invert", every=2)
    ),
    "emerging raster": emerging.Emerging(emerging.Config((1, 2, 6), 17, 1, 2, 4, mask="raster", kernel_size=5)),
    "emerging periodic": emerging.Emerging(emerging.Config((1, 4, 6), 17, 1, 1, 4, mixing="periodic")),
    "glow continuous": glow.Glow(glow.Config((3, 4, 4), None, scales=2, steps=2, hidden=4)),
}
CONTINUOUS = {"levels": None, "scales": 2, "blocks": 1, "hidden": 4, "layers": 1, "divergence": "exact", "alpha": None}
FIXED = {"solver": "rk4", "steps": 8}
TINY["ffjord vector"] = ffjord.FFJORD(ffjord.Config((3,), **CONTINUOUS, **FIXED))
TINY["ffjord"] = ffjord.FFJORD(ffjord.Config((1, 4, 4), **{**CONTINUOUS, "levels": 17}, **FIXED, adjoint=False))
KEY = random.key(7)


def data(model: FlowModel, n: int = 4) -> Tensor:
    shape = (n, *model.config.shape)
    generator = torch.Generator().manual_seed(3)
    if model.config.levels is None:
        return torch.randn(shape, generator=generator)
    return torch.randint(0, model.config.levels, shape, generator=generator, dtype=torch.uint8)


def moved(name: str, dtype: torch.dtype = torch.float32) -> FlowModel:
    """The model, initialised and with parameters of no special values, in evaluation mode."""
    torch.manual_seed(0)
    fresh = type(TINY[name])(TINY[name].config)
    fresh.initialize(data(fresh), key=KEY)
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    fresh.train().loss(data(fresh), key=KEY)  # moves running statistics
    return fresh.to(dtype).eval()


@pytest.mark.parametrize("name", TINY)
def test_log_prob_is_the_change_of_variables(name: str) -> None:
    model = moved(name, torch.float64)
    x = data(model, 2)
    y, log_det = model.dequantize(x, key=KEY)
    z, _ = model.encode(x, key=KEY)
    assert z.dtype == torch.float64
    truth = model.prior.log_prob(z) + log_det + jacobian_log_det(lambda sample: model.flow(sample)[0], y)
    assert_close(model.log_prob(x, key=KEY), truth, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", TINY)
def test_data_are_reconstructed_from_their_latents(name: str) -> None:
    model = moved(name)
    x = data(model)
    assert model.reconstruction_error(x, key=KEY) < 1e-4
    assert_close(model.reconstruct(x, key=KEY), x, rtol=0, atol=0 if model.config.levels else 1e-4)


@pytest.mark.parametrize("name", TINY)
def test_samples_are_data_and_their_log_prob_is_the_models(name: str) -> None:
    model = moved(name)
    x, log_prob = model.sample_and_log_prob(6, key=KEY, temperature=0.7)
    assert x.shape == (6, *model.config.shape) and x.dtype == data(model).dtype
    assert torch.equal(x, model.sample(6, key=KEY, temperature=0.7))
    z = 0.7 * model.prior.sample(6, key=KEY)
    y, _ = model.flow.inverse(z)
    z_again, log_det = model.flow(y)
    if model.config.levels is None:
        expected = model.log_prob(x)
    elif model.config.alpha is None:
        expected = model.prior.log_prob(z_again) + log_det - y[0].numel() * math.log(model.config.levels)
    else:
        p = y.double().sigmoid()
        scale = math.log((1 - 2 * model.config.alpha) / model.config.levels) - p.log() - (1 - p).log()
        expected = model.prior.log_prob(z_again) + log_det + scale.flatten(1).sum(1).float()
    assert_close(log_prob, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", TINY)
def test_a_sample_is_the_same_whoever_draws_it(name: str) -> None:
    model = moved(name)
    whole = model.sample(5, key=KEY)
    assert_close(model.sample(2, key=KEY, sample_offset=3), whole[3:], rtol=1e-4, atol=1)


@pytest.mark.parametrize("name", TINY)
def test_the_loss_is_in_bits_per_dimension_and_reaches_every_parameter(name: str) -> None:
    model = moved(name).train()
    x = data(model)
    loss = model.loss(models.Batch(x), key=KEY)
    loss.total.backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    bits = loss.terms["nats"] / (x[0].numel() * math.log(2))
    assert_close(loss.terms["bits_per_dim"], bits)
    assert_close(loss.total.detach(), loss.terms["nats"] if model.config.levels is None else bits)


@pytest.mark.parametrize("name", TINY)
def test_save_and_load_give_the_same_bits(name: str, tmp_path: Path) -> None:
    model = moved(name)
    model.save(tmp_path)
    loaded = models.load(tmp_path)
    assert type(loaded) is type(model) and loaded.config == model.config
    assert torch.equal(loaded.log_prob(data(model), key=KEY), model.log_prob(data(model), key=KEY))
    loaded.train().loss(data(model), key=KEY)  # a loaded model does not initialise again
    left, right = loaded.named_parameters(), model.named_parameters()
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(left, right, strict=True))


@pytest.mark.parametrize("family", [nice, realnvp, glow, ffjord, nsf, maf, iaf, emerging])
def test_every_preset_is_in_the_registry(family) -> None:
    assert family.PRESETS.items() <= {name: preset.config for name, preset in models.presets().items()}.items()


@pytest.mark.parametrize(
    "name", [f"{system}-small" for system in ("nice", "realnvp", "glow", "ffjord", "nsf", "maf", "iaf", "emerging")]
)
def test_a_new_small_model_is_no_worse_than_the_uniform_one_after_initialisation(name: str) -> None:
    torch.manual_seed(0)
    model = models.build(name)
    x = data(model, 64)
    model.initialize(x, key=KEY)
    assert model.loss(x, key=KEY).total < math.log2(17) * 1.6
    assert {"log_prob", "reconstruct"} == model.capabilities


def test_a_glow_with_constant_pixels_stays_finite() -> None:
    torch.manual_seed(0)
    model = glow.Glow(TINY["glow"].config)
    loss = model.loss(torch.zeros(4, 1, 4, 4, dtype=torch.uint8), key=KEY).total
    loss.backward()
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_nice_keeps_volume_up_to_its_scaling() -> None:
    model = moved("nice vector", torch.float64)
    _, log_det = model.flow(torch.randn(4, 5, dtype=torch.float64))
    assert_close(log_det, model.flow[-1].log_scale.sum().expand(4))


def test_the_logistic_prior_is_a_density_with_its_own_samples() -> None:
    model = nice.NICE(nice.Config((2,), None))
    grid = torch.linspace(-40, 40, 4001, dtype=torch.float64)
    one_dimension = 0.5 * model.prior.log_prob(grid[:, None].expand(-1, 2))
    assert_close(one_dimension.exp().sum() * (grid[1] - grid[0]), torch.ones((), dtype=torch.float64))
    z = model.prior.sample(20000, key=KEY)
    assert abs(z.var().item() - math.pi**2 / 3) < 0.15 and abs(z.mean().item()) < 0.05


def test_a_learned_split_prior_is_the_gaussian_of_its_network() -> None:
    model = moved("glow", torch.float64)
    split = model.flow[-2]
    h = torch.randn(3, 4, 2, 2, dtype=torch.float64)
    z, log_det = split(h)
    log_std, mean = split.prior(h[:, :2]).chunk(2, 1)
    rest, rest_log_det = split.rest(h[:, :2])
    assert_close(z[:, :2], rest)
    truth = ops.gaussian_log_prob(h[:, 2:], mean, log_std)
    assert_close(ops.gaussian_log_prob(z[:, 2:]) + log_det - rest_log_det, truth)


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"scales=3 need .* halve as many times; \(1, 28, 28\) halves 2 times"):
        glow.Glow(glow.Config(shape=(1, 28, 28)))
    with pytest.raises(ValueError, match=r"Glow: shape must be \(channels, height, width\); got \(2, 3\)"):
        glow.Glow(glow.Config(shape=(2, 3)))
    with pytest.raises(ValueError, match="Glow: a vector must have 2 numbers or more"):
        glow.Glow(glow.Config(shape=(1,), levels=None))
    with pytest.raises(ValueError, match="RealNVP: a vector must have 2 numbers or more"):
        realnvp.RealNVP(realnvp.Config(shape=(1,), levels=None))
    with pytest.raises(ValueError, match=r"Glow: x must be \['B', 1, 4, 4\]; got \[3, 1, 8, 8\]"):
        TINY["glow"].log_prob(torch.zeros(3, 1, 8, 8))
    with pytest.raises(ValueError, match="NSF: a vector must have 2 numbers or more"):
        nsf.NSF(nsf.Config(shape=(1,), levels=None))
    with pytest.raises(ValueError, match="NSF: form must be 'coupling' or 'autoregressive'; got 'residual'"):
        nsf.NSF(nsf.Config(form="residual"))
    with pytest.raises(ValueError, match="prior must be 'logistic' or 'gaussian'; got 'cauchy'"):
        nice.NICE(nice.Config(prior="cauchy"))
    with pytest.raises(ValueError, match="coupling must be 'affine' or 'additive'; got 'spline'"):
        glow.Glow(glow.Config(coupling="spline"))
    with pytest.raises(ValueError, match="mixing must be 'emerging' or 'periodic'; got 'fourier'"):
        emerging.Emerging(emerging.Config(mixing="fourier"))
