"""Likelihoods, baselines and pictures."""

import math

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from toy_model import Config, Pixels

from genkern import random
from genkern.experiments import bits_per_dim, held_out
from genkern.experiments.figures import grid, save_curves, save_density, save_grid
from genkern.experiments.metrics import gaussian_nats, histogram_bits_per_dim, nll_sum, uniform_bits_per_dim


def pixels(n=600, levels=5, shape=(1, 3, 3)):
    return torch.randint(levels, (n, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_an_untrained_categorical_has_the_bits_of_the_uniform_model():
    model = Pixels(Config(shape=(1, 3, 3), levels=5))
    assert math.isclose(bits_per_dim(model, pixels()), uniform_bits_per_dim(5), rel_tol=1e-6)


def test_a_categorical_fitted_by_counting_has_the_bits_of_the_histogram():
    train, test = pixels(700), pixels(300)
    model = Pixels(Config(shape=(1, 3, 3), levels=5))
    counts = torch.nn.functional.one_hot(train.long(), 5).sum(0) + 1.0
    model.logits.data = counts.log()
    assert math.isclose(bits_per_dim(model, test), histogram_bits_per_dim(train, test, 5), rel_tol=1e-6)


def test_a_histogram_gives_unseen_levels_a_chance():
    train, test = torch.zeros(9, 1, 1, 1, dtype=torch.uint8), torch.ones(1, 1, 1, 1, dtype=torch.uint8)
    assert math.isclose(histogram_bits_per_dim(train, test, 2), math.log2(11))


def test_shares_of_an_evaluation_add_up_to_the_whole():
    model, key = Pixels(Config(shape=(1, 3, 3), levels=5)).train(), random.key(0)
    torch.nn.init.normal_(model.logits)
    whole = nll_sum(model, pixels(900), key=key)
    shares = [nll_sum(model, pixels(900), key=key, rank=rank, world_size=3) for rank in range(3)]
    torch.testing.assert_close(sum(shares), whole)
    assert model.training and whole.dtype == torch.float64


def test_vectors_are_measured_in_nats():
    model = Pixels(Config(shape=(2,), levels=None))
    x = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
    exact = 0.5 * float(x.square().sum(1).mean()) + math.log(2 * math.pi)
    assert math.isclose(held_out(model, x), exact, rel_tol=1e-5)
    assert gaussian_nats(x, x) <= exact
    with pytest.raises(ValueError, match="bits_per_dim: Pixels with levels=None has nats"):
        bits_per_dim(model, x)


# -- figures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_shows_every_pixel_enlarged(channels):
    pictures = pixels(5, levels=17, shape=(channels, 8, 8))
    image = grid(pictures, 17)
    assert image.shape == (2 * 66 + 2, 3 * 66 + 2, 3) and image.dtype == np.uint8
    first = image[2:66, 2:66][::8, ::8]  # one pixel of each enlarged one
    expected = (pictures[0].double() * 255 / 16).round().byte().expand(3, 8, 8).permute(1, 2, 0).numpy()
    assert (first == expected).all() and (image[2:66, 2:66] == first.repeat(8, 0).repeat(8, 1)).all()


def test_pictures_are_written_whole(tmp_path):
    save_grid(tmp_path / "grid.png", pixels(4, 5), 5)
    points = torch.randn(100, 2)
    save_density(tmp_path / "density.png", points, points, Pixels(Config(shape=(2,), levels=None)).log_prob, "toy")
    save_density(tmp_path / "points.png", points, points, None)
    save_curves(
        tmp_path / "curves.png", [{"step": 1, "loss": 2.0}, {"step": 1, "validation": 3.0}], "nats", {"exact": 1.0}
    )
    assert {path.name for path in tmp_path.iterdir()} == {"grid.png", "density.png", "points.png", "curves.png"}
    assert all(imread(path).ndim == 3 for path in tmp_path.iterdir())
