"""The distance is the closed form, and it orders pictures by how real they look."""

from __future__ import annotations

import pytest
import torch

from genkern.experiments import data, features


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def classifier(digits):
    return features.classifier(digits)


def test_distance_of_known_gaussians_is_the_closed_form():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 3, generator=generator, dtype=torch.float64)
    x = torch.linalg.solve_triangular(torch.linalg.cholesky(x.T.cov()), (x - x.mean(0)).T, upper=False).T  # N(0, I)
    scale, shift = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), torch.tensor([0.5, 0.0, -1.0])
    expected = float(shift.square().sum() + (scale - 1).square().sum())
    assert features.frechet_distance(x, x * scale + shift) == pytest.approx(expected, rel=1e-10)
    assert features.frechet_distance(x, x) == pytest.approx(0, abs=1e-10)


def test_the_classifier_tells_digits_apart_and_is_the_same_each_time(digits, classifier):
    assert features.score(digits.train[:100], digits, classifier).accuracy > 0.95
    again = features.classifier(digits)
    assert torch.equal(again.describe(digits.test), classifier.describe(digits.test))


def test_worse_pictures_are_further_away(digits, classifier):
    held_out = torch.cat([digits.validation, digits.test])
    generator = torch.Generator().manual_seed(0)
    shifted = held_out.roll(1, dims=-1)
    noise = torch.randint(0, 17, held_out.shape, generator=generator, dtype=torch.uint8)
    distances = [features.score(x, digits, classifier).distance for x in (held_out, digits.train, shifted, noise)]
    assert distances == sorted(distances)
    assert distances[0] == pytest.approx(0, abs=1e-6)
    real = features.score(shifted, digits, classifier).real
    assert 10 * real < distances[2] < distances[3]


def test_what_cannot_be_scored_is_refused(digits):
    with pytest.raises(ValueError, match="labelled pictures"):
        features.classifier(data.load("two-moons"))
    with pytest.raises(ValueError, match="samples must be"):
        features.score(digits.train[:1], digits)
    with pytest.raises(ValueError, match="first must be"):
        features.frechet_distance(torch.zeros(1, 3), torch.zeros(4, 3))
