"""AnoDDPM: noise of its own kind, walks part of the way, anomaly maps, and squares pasted on pictures."""

import pytest
import torch
from torch.testing import assert_close

from genkern import models, ops, random
from genkern.experiments import anomalies
from genkern.models.anomaly import anoddpm
from genkern.models.anomaly.anoddpm import AnoDDPM, Config
from genkern.testing import assert_same_bits

KEY = random.key(5)
TINY = {
    "shape": (2, 8, 8), "levels": 17, "network": "mlp", "hidden": 16, "layers": 1, "timesteps": 20, "beta_start": 5e-3,
    "beta_end": 0.5, "trained": 16, "start": 4, "octaves": 3, "frequency": 8.0,
}  # fmt: skip
KINDS = {
    "slices": {"slices": True},
    "scattered slices": {"slices": True, "scatter": True},
    "planes of unit variance": {"slices": False, "normalize": True},
    "gaussian": {"noise": "gaussian"},
}


def made(**options) -> AnoDDPM:
    torch.manual_seed(0)
    model = AnoDDPM(Config(**{**TINY, **options}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


def pictures(n: int = 6) -> torch.Tensor:
    return torch.randint(0, 17, (n, 2, 8, 8), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_a_map_depends_on_the_key_and_the_sample_not_on_the_batch(kind):
    model, x = made(**KINDS[kind]), pictures()
    whole = model.anomaly_map(x, averages=2, key=KEY)
    parts = [model.anomaly_map(x[i : i + 1], averages=2, key=KEY, sample_offset=i) for i in range(len(x))]
    assert_close(torch.cat(parts), whole, rtol=1e-4, atol=1e-6)
    assert_same_bits(model.anomaly_map(x, averages=2, key=KEY), whole)
    assert not torch.equal(model.anomaly_map(x, averages=2, key=random.key(6)), whole)


@pytest.mark.parametrize("kind", ["slices", "scattered slices"])
def test_noise_has_the_same_bits_for_any_batch_split_and_differs_between_samples_channels_and_keys(kind):
    model, x, t = made(**KINDS[kind]), torch.zeros(5, 2, 8, 8), torch.full((5,), 3)
    noise = model.noise(x, t, KEY)
    assert_same_bits(torch.cat([model.noise(x[:2], t[:2], KEY), model.noise(x[2:], t[2:], KEY, 2)]), noise)
    fields = [*noise.flatten(0, 1), *model.noise(x, t, random.key(6)).flatten(0, 1), *model.noise(x, t + 1, KEY)[0]]
    distances = torch.pdist(torch.stack(fields).flatten(1))
    assert distances.min() > 1e-3


def test_normalised_fields_have_mean_0_and_variance_1():
    noise = made(**KINDS["planes of unit variance"]).noise(torch.zeros(5, 2, 8, 8), torch.full((5,), 3), KEY)
    assert_close(noise.mean((2, 3)), torch.zeros(5, 2), rtol=0, atol=1e-5)
    assert_close(noise.square().mean((2, 3)), torch.ones(5, 2), rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", ["anoddpm-small", "anoddpm-mnist"])
def test_fields_of_the_small_presets_have_unit_variance_over_all_of_them(name):
    model = models.build(name)
    noise = model.noise(torch.zeros(4000, *model.config.shape), torch.zeros(4000, dtype=torch.int64), KEY)
    assert abs(noise.square().mean() - 1) < 0.08 and noise.mean((2, 3)).std() > 0.2


def test_scattered_fields_are_as_strong_at_their_corner_as_elsewhere():
    x, t = torch.zeros(3000, 2, 8, 8), torch.zeros(3000, dtype=torch.int64)
    pinned, scattered = (made(**KINDS[kind]).noise(x, t, KEY).std(0) for kind in ("slices", "scattered slices"))
    assert pinned[:, 0, 0].max() < 1e-6  # at depth 0 a corner of the lattice, where noise is always 0
    assert scattered.min() > 0.9 * scattered.mean()


def test_the_loss_is_the_squared_error_of_the_simplex_noise_that_was_added():
    model, x = made().train(), pictures()
    seen = {}
    network = model.network.forward
    model.network.forward = lambda x_t, t, y: seen.setdefault("output", network(seen.setdefault("x_t", x_t), t, y))
    loss = model.loss(x, key=KEY).total
    t, _ = model.draw_times(len(x), KEY)
    noise = model.noise(model.scale(x), t, random.fold_in(KEY, anoddpm.NOISE))
    assert_close(seen["x_t"], ops.q_sample(model.scale(x), model.alpha, model.sigma, timesteps=t, noise=noise))
    assert_close(loss, (seen["output"] - noise).square().mean())
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_only_the_first_steps_are_trained_and_walked():
    model = made()
    t, _ = model.draw_times(4000, KEY)
    assert (int(t.min()), int(t.max())) == (0, 15)
    assert model.walk(None, None, "ddpm", 0.0)[0] == list(reversed(range(16)))
    with pytest.raises(ValueError, match=r"start must be in \[0, 16\]; got 17"):
        model.reconstruct(pictures(), start=17)


@pytest.mark.parametrize("kind", KINDS)
def test_no_steps_into_noise_give_the_picture_back_and_one_almost_does(kind):
    model, x = made(**KINDS[kind], beta_start=1e-4), pictures()
    assert_same_bits(model.reconstruct(x, start=0), x)
    assert_same_bits(model.anomaly_map(x, start=0), torch.zeros(6, 2, 8, 8))
    assert model.anomaly_score(x, start=1, key=KEY).max() < 0.02 < model.anomaly_score(x, start=16, key=KEY).min()


def test_maps_are_errors_of_the_reconstruction_and_scores_their_means():
    model, x = made(), pictures()
    found, again = model.anomaly_map(x, averages=2, key=KEY), model.reconstruct(x, averages=2, key=KEY)
    assert found.shape == x.shape and found.min() >= 0 and found.max() > 0
    assert again.dtype == torch.uint8 and again.shape == x.shape
    half_a_level = 1 / 16
    assert ((found.sqrt() - (model.scale(again) - model.scale(x)).abs()).abs() <= half_a_level + 1e-5).all()
    assert_close(model.anomaly_score(x, averages=2, key=KEY), found.mean((1, 2, 3)))


def test_a_saved_model_comes_back_with_its_noise(tmp_path):
    model, x = made(**KINDS["planes of unit variance"]), pictures()
    model.save(tmp_path)
    again = models.load(tmp_path)
    assert again.config == model.config
    assert_same_bits(again.anomaly_map(x, key=KEY), model.anomaly_map(x, key=KEY))


def test_it_claims_no_likelihood_and_samples_from_the_last_step_that_it_knows():
    model = made()
    assert "reconstruct" in model.capabilities and not model.capabilities & {"elbo", "log_prob"}
    samples = model.sample(4, key=KEY)
    assert samples.shape == (4, 2, 8, 8) and samples.dtype == torch.uint8
    apart = (model.sample(2, key=KEY, sample_offset=2).int() - samples[2:].int()).abs()
    assert apart.max() <= 1  # a level, where rounding falls the other way


def test_what_it_cannot_do_is_refused():
    for options, message in (
        ({"noise": "perlin"}, "noise must be one of"),
        ({"trained": 21}, r"trained must be in \[1, 20\]; got 21"),
        ({"start": 17}, r"start must be in \[0, 16\]; got 17"),
        ({"shape": (2,), "levels": None}, r"shape must be \(C, H, W\) for simplex noise"),
    ):
        with pytest.raises(ValueError, match=message):
            AnoDDPM(Config(**{**TINY, **options}))


def test_squares_are_where_they_are_said_to_be_and_differ_from_what_they_cover():
    x = pictures(40)
    pasted, squares = anomalies.paste_squares(x, 3, 17, key=KEY)
    everywhere = squares.expand_as(x)
    assert squares.sum((1, 2, 3)).tolist() == [9] * 40
    assert_same_bits(pasted[~everywhere], x[~everywhere])
    assert set(pasted[everywhere].tolist()) == {0, 16}
    assert ((pasted.float() - x.float()).abs() * everywhere).sum((1, 2, 3)).min() >= 18 * 8
    assert_same_bits(anomalies.paste_squares(x[30:], 3, 17, key=KEY, sample_offset=30)[0], pasted[30:])


def test_the_area_under_the_curve_is_one_where_errors_are_the_squares():
    class Oracle(AnoDDPM):
        def anomaly_map(self, x, **_):
            return (self.scale(x) - self.scale(healthy)).square()

    healthy = torch.full((6, 2, 8, 8), 4, dtype=torch.uint8)
    assert anomalies.anomaly_auc(Oracle(Config(**TINY)), healthy, 3, start=4, key=KEY) == 1.0
