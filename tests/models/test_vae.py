"""Variational autoencoders: bounds that are bounds, draws that follow from their noise, and codes there and back."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from genkern import models, random
from genkern.experiments import metrics
from genkern.experiments.data import load
from genkern.models.vae import conv_vae, vdvae, vlae
from genkern.models.vae._base import VAE
from genkern.nn.autoregressive import jacobi

KEY = random.key(7)

# name: the model and its config; every model of the family adds its smallest ones here
TINY: dict[str, tuple[type[VAE], object]] = {
    "conv_vae": (conv_vae.ConvVAE, conv_vae.Config((1, 5, 4), 5, 3, (4, 6), 8, "categorical")),
    "conv_vae rgb": (conv_vae.ConvVAE, conv_vae.Config((3, 4, 4), 256, 3, (4,), 8, "logistic")),
    "conv_vae binary": (conv_vae.ConvVAE, conv_vae.Config((1, 4, 4), 2, 3, (4,), 8, "bernoulli", free_bits=0.5)),
    "vlae": (vlae.VLAE, vlae.Config((1, 4, 5), 5, 3, (4,), 8, 3, 6, 1, 2, 8, "categorical")),
    "vlae rgb": (vlae.VLAE, vlae.Config((3, 4, 4), 7, 3, (4,), 8, 3, 6, 1, 1, 8, "categorical", 0.0, 2.0)),
    "vlae mixture": (vlae.VLAE, vlae.Config((3, 3, 4), 256, 3, (4,), 8, 3, 6, 1, 1, 8, "mixture")),
    "vdvae": (vdvae.VDVAE, vdvae.Config((1, 4, 4), 5, "4x1,4d4,1x1", "1x1,4m1,4x2", 8, 2, likelihood="categorical")),
    "vdvae rgb": (
        vdvae.VDVAE,
        vdvae.Config((3, 8, 8), 256, "8x1,8d2,4x1,4d2,2d2,1x1", "1x1,2m1,2x1,8m2,8x1", 8, 2, bias_up_to=2),
    ),
}


def moved(name: str, dtype: torch.dtype = torch.float64) -> VAE:
    """The model with parameters of no special values, in evaluation mode."""
    torch.manual_seed(0)
    model_class, config = TINY[name]
    model = model_class(config).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


def data(model: VAE, n: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, model.config.levels, (n, *model.config.shape), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("name", TINY)
def test_the_loss_is_the_bound_and_reaches_every_parameter(name: str) -> None:
    model, unit = moved(name), 1 / (math.prod(TINY[name][1].shape) * math.log(2))
    x = data(model)
    loss = model.loss(x, key=KEY)
    torch.testing.assert_close(loss.total, -model.elbo(x, key=KEY).mean() * unit)
    torch.testing.assert_close(loss.total, loss.terms["bits_per_dim"], check_dtype=False)
    loss.total.backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    half = model.loss(x[2:], key=KEY, sample_offset=2), model.loss(x[:2], key=KEY)
    torch.testing.assert_close((half[0].total + half[1].total) / 2, loss.total)


@pytest.mark.parametrize("name", TINY)
def test_the_two_forms_of_the_divergence_agree_in_expectation(name: str) -> None:
    model = moved(name)
    x = data(model, 2).repeat_interleave(2000, dim=0)
    with torch.no_grad():
        closed, drawn = (model.infer(x, key=KEY, sampled=sampled).divergence for sampled in (False, True))
    error = (closed - drawn).unflatten(0, (2, 2000))
    # given what is above it, the divergence of a group is the mean of its log-ratio
    assert (error.mean(1).abs() < 5 * error.std(1) / math.sqrt(2000) + 1e-9).all()


@pytest.mark.parametrize("name", ["conv_vae", "vlae", "vdvae"])
def test_the_bound_rises_with_the_number_of_draws(name: str) -> None:
    model, x = moved(name), data(moved(name), 32)
    bounds = [float(model.log_prob_bound(x, samples=k, key=KEY).mean()) for k in (1, 8, 64)]
    assert bounds[0] < bounds[1] + 0.05 and bounds[1] < bounds[2] + 0.05 and bounds[0] < bounds[2]
    elbo = torch.stack([model.elbo(x, key=random.fold_in(KEY, i)).mean() for i in range(20)])
    assert float(elbo.mean().detach()) < bounds[2] + 0.02


@pytest.mark.parametrize("name", ["conv_vae", "vlae", "vdvae"])
def test_the_probabilities_of_all_pictures_sum_to_one(name: str) -> None:
    """By importance sampling with the prior as its own proposal, which is unbiased: sum over all x of p(x)."""
    model_class, config = {
        "conv_vae": (conv_vae.ConvVAE, conv_vae.Config((1, 2, 2), 3, 2, (4,), 8, "categorical")),
        "vlae": (vlae.VLAE, vlae.Config((1, 2, 2), 3, 2, (4,), 8, 3, 4, 1, 1, 8, "categorical")),
        "vdvae": (vdvae.VDVAE, vdvae.Config((1, 2, 2), 3, "2d2,1x1", "1x1,2m1,2x1", 8, 2, likelihood="categorical")),
    }[name]  # fmt: skip
    torch.manual_seed(1)
    model = model_class(config).double().eval()
    pictures = torch.tensor(list(itertools.product(range(3), repeat=4)), dtype=torch.uint8).reshape(-1, 1, 2, 2)
    total = model.log_prob_bound(pictures, samples=400, key=KEY).exp().sum()
    assert abs(float(total) - 1) < 0.02


@pytest.mark.parametrize("name", TINY)
def test_a_sample_is_the_same_whoever_draws_it(name: str) -> None:
    model = moved(name)
    x = model.sample(5, key=KEY)
    assert x.shape == (5, *model.config.shape) and x.dtype == torch.uint8 and int(x.max()) < model.config.levels
    assert torch.equal(model.sample(2, key=KEY, sample_offset=3), x[3:])
    assert not torch.equal(model.sample(5, key=random.key(8)), x)
    cold = model.sample(3, key=KEY, temperature=0.0)
    assert torch.equal(cold[0], cold[1]) and torch.equal(cold[0], cold[2])


@pytest.mark.parametrize("name", TINY)
def test_codes_decode_to_what_is_reconstructed(name: str) -> None:
    model = moved(name)
    x = data(model)
    assert torch.equal(model.reconstruct(x), model.decode(model.encode(x)))
    paths = model.interpolate(x[:2], x[2:], steps=3)
    assert paths.shape == (2, 3, *model.config.shape)
    assert torch.equal(paths[:, 0], model.reconstruct(x[:2])) and torch.equal(paths[:, 2], model.reconstruct(x[2:]))
    pictures = model.pictures(data(model, 16), key=KEY)
    assert set(pictures) == {"reconstructions", "interpolation"}
    assert torch.equal(pictures["reconstructions"][::2], data(model, 16))


def test_free_bits_charge_a_group_at_least_its_minimum() -> None:
    model = moved("vdvae")
    config = {**vars(model.config), "free_bits": 100.0}
    generous = vdvae.VDVAE(vdvae.Config(**config)).double()
    generous.load_state_dict(model.state_dict())
    loss, unit = generous.train().loss(data(model), key=KEY), 1 / (16 * math.log(2))
    torch.testing.assert_close(loss.total, (loss.terms["distortion"] + 4 * 100.0) * unit, check_dtype=False)
    assert generous.eval().loss(data(model), key=KEY).total < loss.total


def test_the_shipped_string_is_the_hierarchy_of_the_paper() -> None:
    """43 groups of latents from 1 x 1 to 32 x 32, of which the prior of each starts as the unit one."""
    with torch.device("meta"):
        model = vdvae.VDVAE(vdvae.Config())
    assert len(model.decoder.blocks) == 43 and len(model.encoder.blocks) == 33
    assert 38e6 < sum(parameter.numel() for parameter in model.parameters()) < 40e6
    torch.manual_seed(0)
    fresh = vdvae.VDVAE(vdvae.Config((1, 4, 4), 5, "4x1,4d4,1x1", "1x1,4m1", 8, 2, likelihood="categorical"))
    z = fresh.draw_prior(3, key=KEY)
    for i, latents in enumerate(z):
        assert torch.equal(latents, random.normal(random.fold_in(KEY, i), tuple(latents.shape)))


def test_the_window_of_a_vlae_is_small() -> None:
    """A pixel depends on the few neighbours of its window alone, given the latents."""
    model = moved("vlae")
    z = model.encode(data(model, 1))
    h = model.decoder(z)
    x = torch.randn(1, 1, 4, 5, dtype=torch.float64, requires_grad=True)
    model.local(x, h)[0, :, 2, 2].sum().backward()
    seen = x.grad[0, 0] != 0
    assert {tuple(place) for place in seen.nonzero().tolist()} == {(1, 1), (1, 2), (1, 3), (2, 1)}


@pytest.mark.parametrize("name", ["vlae", "vlae rgb", "vlae mixture"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_pixels_drawn_from_their_windows_are_those_of_whole_passes(name: str, temperature: float) -> None:
    model = moved(name)
    z = model.draw_prior(5, key=KEY)
    drawn = model.decode(z, key=KEY, temperature=temperature)
    h, head = model.decoder(z), model.likelihood
    noise = random.uniform(KEY, (5, head.noise_per_pixel, *model.config.shape[1:]))
    free = torch.ones(model.config.shape[1:], dtype=torch.bool)
    again, _ = jacobi(
        lambda x: model.local(model.scale(x), h), lambda p, u: head.draw(p, u, temperature), torch.zeros_like(drawn),
        noise, free,
    )  # fmt: skip
    assert torch.equal(drawn, again)


def test_blocks_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="blocks must read like '8x2', '8d2' or '8m4'; got '8y2'"):
        vdvae.parse("8y2")
    with pytest.raises(ValueError, match="encoder is at 4 x 4, where 8x1 is wanted"):
        vdvae.VDVAE(vdvae.Config((1, 8, 8), 5, "8d2,8x1", "8x1", 8, 2, likelihood="categorical"))
    with pytest.raises(ValueError, match="decoder must have resolutions of the encoder"):
        vdvae.VDVAE(vdvae.Config((1, 8, 8), 5, "8d2", "2x1,8m2", 8, 2, likelihood="categorical"))
    with pytest.raises(ValueError, match="decoder has no smaller resolution before 8m4"):
        vdvae.VDVAE(vdvae.Config((1, 8, 8), 5, "8d2", "8m4,8x1", 8, 2, likelihood="categorical"))
    with pytest.raises(ValueError, match="window must be odd and 3 or more; got 4"):
        vlae.VLAE(vlae.Config(window=4))
    with pytest.raises(TypeError, match=r"ConvVAE: x must be integer pixels in \[0, 5\); got torch.float64"):
        moved("conv_vae").elbo(torch.zeros(1, 1, 5, 4, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"ConvVAE: x must be \['B', 1, 5, 4\]; got \[1, 1, 4, 5\]"):
        moved("conv_vae").reconstruct(torch.zeros(1, 1, 4, 5, dtype=torch.uint8))


@pytest.mark.parametrize("name", ["conv-vae-small", "vlae-small", "vdvae-small"])
def test_a_small_model_saves_and_loads_the_same_bits(name: str, tmp_path) -> None:
    torch.manual_seed(0)
    model = models.build(name).eval()
    model.save(tmp_path)
    loaded, x = models.load(tmp_path), data(model, 2)
    assert type(loaded) is type(model) and loaded.config == model.config
    assert torch.equal(loaded.elbo(x, key=KEY), model.elbo(x, key=KEY))


@pytest.mark.parametrize("name", ["conv-vae", "vlae", "conv-vae-mnist", "vlae-mnist", "vdvae-mnist"])
def test_presets_of_other_sizes_bound_a_picture(name: str) -> None:
    torch.manual_seed(0)
    model = models.build(name).eval()
    x = data(model, 1)
    bits = -model.elbo(x, key=KEY) / (x[0].numel() * math.log(2))
    assert 7 < float(bits.detach()) < 20  # of noise under an untrained model of 256 levels


def test_on_digits_a_lossy_code_beside_a_small_window_is_better_than_a_code_alone() -> None:
    """The order of the papers after a few seconds: VLAE < convolutional VAE < a histogram for each pixel."""
    digits = load("digits")
    found = {}
    for name in ("conv-vae-small", "vlae-small"):
        torch.manual_seed(0)
        model = models.build(name)
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for step in range(300):
            at = torch.randint(0, len(digits.train), (64,), generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            model.loss(digits.train[at], key=random.key(step)).total.backward()
            optimizer.step()
        found[name] = metrics.bits_per_dim(model, digits.test, key=KEY)
    histogram = metrics.histogram_bits_per_dim(digits.train, digits.test, digits.levels or 0)
    assert found["vlae-small"] < found["conv-vae-small"] - 0.05 < found["conv-vae-small"] < histogram - 0.1
