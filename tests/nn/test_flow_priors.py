"""Base distributions: densities, their samples, and that a sample depends on its key and index alone."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from genkern import random
from genkern.nn import ClassConditionalGaussian, MixtureOfGaussians, Prior, StandardLogistic, StandardNormal
from genkern.nn.flows.priors import draw_labels

KEY = random.key(11)
PRIORS = {
    "normal": lambda shape: StandardNormal(shape),
    "logistic": lambda shape: StandardLogistic(shape),
    "mixture": lambda shape: MixtureOfGaussians(shape, components=3),
    "classes": lambda shape: ClassConditionalGaussian(shape, classes=3),
}
LEARNED = ["mixture", "classes"]


def make(name: str, shape: tuple[int, ...] = (2,)) -> Prior:
    torch.manual_seed(4)
    prior = PRIORS[name](shape)
    for parameter in prior.parameters():
        nn.init.normal_(parameter, std=0.4)
    return prior


def plane(reach: float, step: float) -> Tensor:
    axis = torch.arange(-reach, reach + step / 2, step, dtype=torch.float64)
    return torch.cartesian_prod(axis, axis)


@pytest.mark.parametrize("name", PRIORS)
def test_the_density_integrates_to_one(name: str) -> None:
    prior, step = make(name).double(), 0.05
    reach = 24.0 if name == "logistic" else 12.0
    assert_close(prior.log_prob(plane(reach, step)).exp().sum() * step**2, torch.ones((), dtype=torch.float64))


@pytest.mark.parametrize("name", PRIORS)
def test_samples_have_the_distribution_of_the_density(name: str) -> None:
    prior, n, step = make(name).double(), 40_000, 0.05
    z = prior.sample(n, key=KEY, dtype=torch.float64)
    grid = plane(24.0 if name == "logistic" else 12.0, step)
    weight = prior.log_prob(grid).exp() * step**2
    # Kolmogorov and Smirnov's distance of each coordinate; beyond 1.95 / sqrt(n) it would be by chance once in 1000
    for axis in range(2):
        coordinate, order = grid[:, axis].sort(stable=True)
        cumulative = weight[order].cumsum(0)
        points = torch.linspace(-8, 8, 300, dtype=torch.float64)
        ours = (z[:, axis, None] <= points).double().mean(0)
        place = torch.searchsorted(coordinate, points, right=True).clamp(max=len(coordinate)) - 1
        assert (ours - cumulative[place]).abs().max() < 1.95 / math.sqrt(n) + step


@pytest.mark.parametrize("name", PRIORS)
def test_a_sample_is_the_same_whoever_draws_it(name: str) -> None:
    prior = make(name, (3, 2, 2))
    whole = prior.sample(7, key=KEY)
    assert whole.shape == (7, 3, 2, 2)
    assert torch.equal(prior.sample(3, key=KEY, sample_offset=4), whole[4:])
    assert not torch.equal(prior.sample(7, key=random.key(12)), whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", PRIORS)
def test_log_probabilities_are_never_below_float32(name: str, dtype: torch.dtype) -> None:
    prior = make(name, (4,))
    z = torch.randn(5, 4, dtype=torch.float64).to(dtype)
    truth = make(name, (4,)).double().log_prob(z.double())
    with torch.autocast("cpu", torch.bfloat16):
        found = prior.log_prob(z)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32) and found.shape == (5,)
    assert_close(found.double(), truth, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", LEARNED)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    prior = make(name).double()
    names, values = zip(*prior.named_parameters(), strict=True)

    def log_prob(z: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(prior, dict(zip(names, parameters, strict=True)), (z,))

    prior.forward = prior.log_prob  # type: ignore[method-assign]
    z = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    leaves = tuple(value.detach().clone().requires_grad_() for value in values)
    assert torch.autograd.gradcheck(log_prob, (z, *leaves))


@pytest.mark.parametrize("name", LEARNED)
def test_a_temperature_of_zero_gives_the_means(name: str) -> None:
    prior = make(name)
    z = prior.sample(64, key=KEY, temperature=0.0)
    assert {tuple(row.tolist()) for row in z} == {tuple(row.tolist()) for row in prior.mean}


def test_components_are_drawn_as_often_as_they_weigh() -> None:
    prior = MixtureOfGaussians((1,), components=3)
    weights = torch.tensor([0.2, 0.0, 0.8])
    prior.logits.data = weights.log()
    index = prior.draw_index(20_000, key=KEY)
    assert_close(index.bincount(minlength=3) / 20_000, weights, rtol=0, atol=0.01)
    assert prior.sample(5, key=KEY).isfinite().all()


def test_a_label_picks_its_gaussian_and_none_means_all_of_them() -> None:
    prior = make("classes")
    z, labels = torch.randn(4, 2), torch.tensor([2, 0, 1, 2])
    normal = torch.distributions.Normal(prior.mean, prior.log_std.exp())
    each = normal.log_prob(z[:, None]).sum(-1)
    assert_close(prior.log_prob(z, labels), each[torch.arange(4), labels])
    assert_close(prior.log_prob(z), each.logsumexp(1) - math.log(3))
    drawn = draw_labels(3, 9, key=KEY)
    assert drawn.unique().tolist() == [0, 1, 2]
    assert torch.equal(prior.sample(9, key=KEY), prior.sample(9, key=KEY, context=drawn))


def test_a_new_class_conditional_prior_is_the_standard_normal() -> None:
    prior, z = ClassConditionalGaussian((3,), 10), torch.randn(4, 3)
    for labels in (None, torch.tensor([0, 9, 3, 3])):
        assert_close(prior.log_prob(z, labels), StandardNormal((3,)).log_prob(z))


@pytest.mark.parametrize("name", PRIORS)
def test_latents_of_another_shape_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"z must be \['B', 3\]; got \[2, 4\]"):
        PRIORS[name]((3,)).log_prob(torch.randn(2, 4))


@pytest.mark.parametrize("labels", [torch.tensor([0]), torch.tensor([0.0, 1.0]), torch.tensor([[0], [1]])])
def test_there_is_a_label_for_each_latent(labels: Tensor) -> None:
    with pytest.raises(ValueError, match=r"context must be labels \[2\]"):
        PRIORS["classes"]((3,)).log_prob(torch.randn(2, 3), labels)


def test_a_label_below_zero_is_not_one_counted_from_the_end() -> None:
    with pytest.raises(IndexError):
        PRIORS["classes"]((3,)).log_prob(torch.randn(2, 3), torch.tensor([0, -1]))


@pytest.mark.parametrize(("prior", "name"), [(MixtureOfGaussians, "components"), (ClassConditionalGaussian, "classes")])
def test_a_count_below_one_is_refused(prior: type[Prior], name: str) -> None:
    with pytest.raises(ValueError, match=f"{prior.__name__}: {name} must be at least 1; got 0"):
        prior((2,), 0)
