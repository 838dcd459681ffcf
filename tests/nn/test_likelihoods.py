"""Pixel likelihoods that sum to one and draw what they say; quantiles that are exact."""

import itertools

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from genkern import random
from genkern.nn import (
    BernoulliPixels,
    CategoricalPixels,
    DiscretizedLogistic,
    DiscretizedMixture,
    PixelLikelihood,
    empirical_inverse_cdf,
    histogram_inverse_cdf,
    pixel_likelihood,
    softmax,
    softmin,
)

HEADS = [
    CategoricalPixels(1, 5),
    CategoricalPixels(3, 3),
    BernoulliPixels(1),
    BernoulliPixels(2),
    DiscretizedLogistic(1, 5),
    DiscretizedLogistic(3, 3),
    DiscretizedMixture(1, 5, 4),
    DiscretizedMixture(3, 3, 2),
]


def params_of(head: PixelLikelihood, n: int, seed: int = 0, sites: tuple[int, int] = (1, 1)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, head.parameters_per_pixel, *sites, generator=generator, dtype=torch.float64)


def pictures_of(head: PixelLikelihood) -> torch.Tensor:
    return torch.tensor(list(itertools.product(range(head.levels), repeat=head.channels)))[..., None, None]


@pytest.mark.parametrize("head", HEADS, ids=repr)
def test_probabilities_sum_to_one_and_draws_have_them(head: PixelLikelihood) -> None:
    x = pictures_of(head)
    params = params_of(head, 1)
    p = head.log_prob(params.expand(len(x), -1, 1, 1), x).exp()
    torch.testing.assert_close(p.sum(), torch.ones((), dtype=torch.float64))
    draws = head.sample(params.expand(20000, -1, 1, 1), key=random.key(5))
    assert draws.dtype == torch.uint8 and draws.shape == (20000, head.channels, 1, 1)
    code = (draws.flatten(1).long() * head.levels ** torch.arange(head.channels).flip(0)).sum(1)
    counts = torch.bincount(code, minlength=len(x))
    chi_squared = ((counts - 20000 * p) ** 2 / (20000 * p).clamp(min=1)).sum()
    assert chi_squared < len(x) + 4 * (2 * len(x)) ** 0.5 + 4


@pytest.mark.parametrize("head", HEADS, ids=repr)
def test_a_picture_is_the_product_of_its_pixels(head: PixelLikelihood) -> None:
    params, x = params_of(head, 2, sites=(3, 4)), torch.randint(0, head.levels, (2, head.channels, 3, 4))
    alone = sum(
        head.log_prob(params[..., i : i + 1, j : j + 1], x[..., i : i + 1, j : j + 1])
        for i, j in itertools.product(range(3), range(4))
    )
    torch.testing.assert_close(head.log_prob(params, x), alone)
    half = params.bfloat16()
    assert head.log_prob(half, x).dtype == torch.float32
    cold = head.draw(params, torch.full((2, head.noise_per_pixel, 3, 4), 0.9), temperature=0.0)
    assert torch.equal(cold, head.draw(params, torch.full((2, head.noise_per_pixel, 3, 4), 0.1), temperature=0.0))


def test_bernoulli_is_the_cross_entropy_also_at_extreme_logits() -> None:
    logits = torch.tensor([-100.0, -3.0, 0.0, 3.0, 100.0]).reshape(1, 1, 1, 5).requires_grad_()
    x = torch.tensor([0, 1, 1, 0, 1]).reshape(1, 1, 1, 5)
    found = BernoulliPixels(1).log_prob(logits, x)
    torch.testing.assert_close(found[0], -binary_cross_entropy_with_logits(logits, x.float(), reduction="sum"))
    worst = BernoulliPixels(1).log_prob(logits, 1 - x)
    assert worst.isfinite().all() and torch.autograd.grad(worst, logits)[0].isfinite().all()


def test_heads_are_found_by_name() -> None:
    assert isinstance(pixel_likelihood("logistic", 3, 256), DiscretizedLogistic)
    with pytest.raises(ValueError, match="name must be one of .* got 'gauss'"):
        pixel_likelihood("gauss", 3, 256)
    with pytest.raises(ValueError, match="BernoulliPixels: levels must be 2; got 5"):
        BernoulliPixels(1, 5)
    with pytest.raises(ValueError, match="channels must be 1 or 3"):
        DiscretizedMixture(2, 256)


def test_quantiles_of_samples_are_those_of_torch() -> None:
    samples, u = torch.randn(3, 50, dtype=torch.float64), torch.rand(3, 20, dtype=torch.float64)
    expected = torch.stack([torch.quantile(row, v) for row, v in zip(samples, u, strict=True)])
    torch.testing.assert_close(empirical_inverse_cdf(samples, u), expected)
    assert torch.equal(empirical_inverse_cdf(samples, torch.tensor([0.0, 1.0]).double())[:, 1], samples.amax(1))
    assert empirical_inverse_cdf(torch.tensor([2.0]), torch.tensor([0.1, 0.9])).tolist() == [2.0, 2.0]
    assert torch.autograd.gradcheck(empirical_inverse_cdf, (samples.requires_grad_(), u.requires_grad_()))


def test_draws_from_a_histogram_have_its_probabilities_and_undo_its_distribution() -> None:
    logits = torch.tensor([0.0, -torch.inf, 1.0, 2.0, -torch.inf], dtype=torch.float64)
    edges = torch.tensor([0.0, 1.0, 3.0, 3.5, 5.0, 9.0], dtype=torch.float64)
    u = random.uniform(random.key(0), (20000,), dtype=torch.float64)
    x = histogram_inverse_cdf(logits, u, edges)
    p = logits.softmax(0)
    counts = torch.histogram(x, edges).hist
    assert counts[1] == 0 and counts[4] == 0
    kept = p > 0
    assert ((counts - 20000 * p)[kept] ** 2 / (20000 * p)[kept]).sum() < 13.8  # 2 degrees of freedom, one in a thousand
    place = (torch.bucketize(x, edges, right=True) - 1).clamp(0, 4)
    distribution = p.cumsum(0)[place] - p[place] + p[place] * (x - edges[place]) / (edges.diff()[place])
    torch.testing.assert_close(distribution, u)
    finite = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    v = torch.rand(2, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda logits: histogram_inverse_cdf(logits, v), finite)
    assert 1 - 1e-6 < float(histogram_inverse_cdf(torch.zeros(3), torch.tensor([1 - 2.0**-24]))) <= 1


def test_softmin_is_the_softmax_of_the_negative() -> None:
    scores = torch.tensor([[1e4, -1e4, 0.0], [0.0, 0.1, 0.1]])
    for temperature in (0.0, 1e-3, 1.0, 1e3):
        low, high = softmin(scores, 1, temperature), softmax(scores, 1, temperature)
        assert torch.equal(low, softmax(-scores, 1, temperature)) and low.isfinite().all() and high.isfinite().all()
        torch.testing.assert_close(low.sum(1), torch.ones(2))
    assert softmax(scores, 1, 0.0).tolist() == [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    torch.testing.assert_close(softmin(scores), torch.nn.functional.softmin(scores, dim=-1))
    with pytest.raises(ValueError, match="temperature must not be negative"):
        softmin(scores, temperature=-1.0)
