"""PixelCNN++: exact likelihoods of integer pixels, drawn a pixel at a time, with nothing seen ahead."""

import itertools
import math

import pytest
import torch
from torch.testing import assert_close

from genkern import models, random
from genkern.models.autoregressive.pixelcnn_pp import Config, PixelCNNPP
from genkern.nn import check_causality

GREY = Config((1, 4, 4), 7, None, resnets=1, filters=4, mixtures=2, resolutions=2, dropout=0.0)
COLOUR = Config((3, 4, 8), 5, None, resnets=1, filters=4, mixtures=3, resolutions=3, dropout=0.0)
BY_CLASS = Config((1, 4, 4), 5, 3, resnets=1, filters=4, mixtures=2, resolutions=1, dropout=0.0, weight_norm=False)
CONFIGS = {"grey": GREY, "colour": COLOUR, "by class": BY_CLASS}


def moved(config: Config) -> PixelCNNPP:
    """The model in float64 with parameters of no special values."""
    torch.manual_seed(0)
    model = PixelCNNPP(config).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model.eval()


def data(config: Config, n: int = 3) -> torch.Tensor:
    return torch.randint(0, config.levels, (n, *config.shape), generator=torch.Generator().manual_seed(1))


def labels(config: Config, n: int = 3) -> torch.Tensor | None:
    return None if config.classes is None else torch.arange(n) % config.classes


@pytest.mark.parametrize("name", CONFIGS)
def test_no_pixel_sees_itself_or_a_later_one(name):
    report = check_causality(moved(CONFIGS[name]), inputs=24)
    assert report, str(report)


def test_every_pixel_sees_all_pixels_before():
    report = check_causality(moved(GREY))
    assert report and not report.unseen, str(report)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_probabilities_of_all_values_of_a_pixel_sum_to_one(channels):
    model = moved(Config((channels, 1, 1), 6, None, 1, 4, 3, resolutions=1, dropout=0.0))
    values = torch.tensor(list(itertools.product(range(6), repeat=channels)))
    assert_close(model.log_prob(values.view(-1, channels, 1, 1)).exp().sum(), torch.ones((), dtype=torch.float64))


def test_the_probabilities_of_all_pictures_sum_to_one():
    model = moved(Config((1, 2, 2), 3, None, 1, 4, 2, resolutions=2, dropout=0.0))
    pictures = torch.tensor(list(itertools.product(range(3), repeat=4))).view(-1, 1, 2, 2)
    assert_close(model.log_prob(pictures).exp().sum(), torch.ones((), dtype=torch.float64))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_method_of_sampling_gives_the_same_pixels(name):
    model = moved(CONFIGS[name])
    x = model.sample(3, key=random.key(2), method="naive")
    assert x.shape == (3, *model.config.shape) and int(x.max()) < model.config.levels
    for method in ("jacobi", "auto", "cached", "wavefront"):
        assert torch.equal(model.sample(3, key=random.key(2), method=method), x), method


@pytest.mark.parametrize("name", CONFIGS)
def test_pixels_that_are_given_are_kept_and_a_sample_is_completed_to_itself(name):
    model, told = moved(CONFIGS[name]), []
    x = model.sample(3, key=random.key(2), progress=lambda *a: told.append(a))
    assert told == sorted(told) and told[-1][0] == told[-1][1]
    mask = torch.zeros(x.shape[2:], dtype=torch.bool)
    mask[1::2, ::3] = True
    for method in ("cached", "wavefront", "jacobi"):
        assert torch.equal(model.sample(3, key=random.key(2), given=x, first_row=3, method=method), x)
        other = model.sample(3, key=random.key(2), given=data(model.config).to(x), mask=mask, method=method)
        assert torch.equal(other[:, :, mask], data(model.config).to(x)[:, :, mask])
        again = model.sample(3, key=random.key(2), given=data(model.config).to(x), mask=mask, method="naive")
        assert torch.equal(other, again), method
    assert torch.equal(model.sample(1, key=random.key(2), sample_offset=2, y=None if name != "by class" else 2), x[2:])


def test_new_weights_are_drawn_from_though_they_are_normalised():
    model = moved(GREY)
    before = model.sample(4, key=random.key(2))
    with torch.no_grad():
        model.body.head.parametrizations.weight.original0 *= -2
    after = model.sample(4, key=random.key(2))
    assert not torch.equal(before, after) and torch.equal(model.sample(4, key=random.key(2), method="naive"), after)


def test_samples_have_the_frequencies_of_the_model():
    model = moved(Config((3, 1, 1), 2, None, 1, 4, 2, resolutions=1, dropout=0.0))
    x = model.sample(4000, key=random.key(0)).flatten(1).long()
    values = torch.tensor(list(itertools.product(range(2), repeat=3)))
    expected = 4000 * model.log_prob(values.view(-1, 3, 1, 1)).exp()
    found = torch.bincount((x * torch.tensor([4, 2, 1])).sum(1), minlength=8)
    assert ((found - expected) ** 2 / expected).sum() < 24.3  # 7 degrees of freedom: one chance in a thousand


@pytest.mark.parametrize("name", CONFIGS)
def test_the_loss_is_in_bits_per_dimension_and_reaches_every_parameter(name):
    model = moved(CONFIGS[name]).train()
    x, y = data(model.config), labels(model.config)
    loss = model.loss(models.Batch(x, y))
    loss.total.backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    bits = -model.eval().log_prob(x, y=y).mean() / (x[0].numel() * math.log(2))
    assert_close(loss.total.detach(), bits.detach())


def test_weights_are_saved_and_loaded_bit_for_bit(tmp_path):
    model = PixelCNNPP(GREY).eval()
    model.save(tmp_path)
    loaded = models.load(tmp_path)
    assert torch.equal(loaded.log_prob(data(GREY)), model.log_prob(data(GREY)))


def test_training_finds_what_decides_the_next_pixel():
    """Pictures of alternating rows: the first row is free, all others follow from it."""
    config = Config((1, 4, 4), 4, None, 1, 12, 3, resolutions=2, dropout=0.0)
    torch.manual_seed(0)
    model = PixelCNNPP(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    first = torch.randint(0, 4, (256, 1, 1, 4), generator=torch.Generator().manual_seed(0))
    x = torch.cat([first, 3 - first, first, 3 - first], dim=2)
    before = model.loss(x).total.item()
    for step in range(150):
        optimizer.zero_grad()
        model.loss(x[step % 4 * 64 : step % 4 * 64 + 64]).total.backward()
        optimizer.step()
    after = model.loss(x).total.item()
    assert before > 1.5 and after < 1.0  # bits: 2 for a uniform pixel; 0.5 is the entropy


@pytest.mark.parametrize(("shape", "resolutions"), [((2, 4, 4), 1), ((1, 6, 4), 3)])
def test_shapes_that_do_not_divide_are_refused(shape, resolutions):
    with pytest.raises(ValueError, match="PixelCNNPP: shape must be"):
        PixelCNNPP(Config(shape, resolutions=resolutions, filters=4, resnets=1))
