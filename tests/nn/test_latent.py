"""Latents: free bits, weights that follow the divergence, skipped steps, temperatures."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from genkern import random
from genkern.nn import (
    GaussianLatent,
    SkipRule,
    SoftFreeBits,
    exponential_temperature,
    free_bits,
    linear_temperature,
)


def test_a_latent_is_drawn_from_the_halves_of_its_features() -> None:
    h, prior = torch.randn(2, 4, 6, 3, 3, generator=torch.Generator().manual_seed(0)).double()
    z, kl = GaussianLatent()(h, prior, key=random.key(1))
    q, p = (Normal(m, (0.5 * v).exp()) for m, v in (h.chunk(2, 1), prior.chunk(2, 1)))
    torch.testing.assert_close(kl, kl_divergence(q, p).flatten(1).sum(1))
    noise = random.normal(random.key(1), (4, 3, 3, 3)).double()
    torch.testing.assert_close(z, q.mean + q.stddev * noise)
    with pytest.raises(ValueError, match=r"h must be \[B, 2C, \*\]; got \[4, 3\]"):
        GaussianLatent()(torch.zeros(4, 3))


def test_free_bits_bound_the_mean_of_each_group_and_not_each_sample() -> None:
    kl = torch.tensor([[0.0, 4.0], [0.6, 0.0]], requires_grad=True)
    cost = free_bits(kl, 0.5)
    assert float(cost.detach()) == 2.5  # max(0.5, 0.3) + max(0.5, 2.0), although single samples are below
    (grad,) = torch.autograd.grad(cost, kl)
    assert grad.tolist() == [[0.0, 0.5], [0.0, 0.5]]
    assert float(free_bits(kl.detach(), 0.0)) == pytest.approx(2.3)
    assert float(free_bits(torch.tensor([1.0, 3.0]), 0.5)) == 2.0
    with pytest.raises(ValueError, match="minimum must not be negative; got -1"):
        free_bits(kl, -1)


def test_the_weight_of_soft_free_bits_holds_the_divergence_at_its_target() -> None:
    soft, target = SoftFreeBits(target=4.0), 4.0
    level = 0.0
    for _ in range(400):  # a posterior that gives way to the pressure of the weight
        level = 8.0 * (1 - float(soft.weight))
        soft(torch.full((8,), level))
    assert 0.8 * target < level < 1.25 * target
    before = soft.weight.clone()
    soft.eval()(torch.full((8,), 100.0))
    assert torch.equal(soft.weight, before)
    for _ in range(300):
        soft.train()(torch.zeros(8))
    assert float(soft.weight) == pytest.approx(1e-4)
    kl = torch.ones(4, requires_grad=True)
    assert (torch.autograd.grad(soft(kl), kl)[0] > 0).all()  # never a gradient of zero


def test_a_step_far_beyond_the_usual_is_skipped_and_a_lasting_change_is_accepted() -> None:
    rule = SkipRule(window=20, quantile=0.9, factor=4.0)
    norms = 1 + random.uniform(random.key(0), (20,))
    assert all(rule(norm) for norm in norms)
    for bad in (math.nan, math.inf, 100.0):
        assert not rule(torch.tensor(bad))
    assert rule(torch.tensor(2.0))
    answers = [rule(torch.tensor(50.0)) for _ in range(20)]
    assert not answers[0] and answers[-1]  # training does not stop for ever


def test_the_rule_goes_on_from_its_state() -> None:
    first, second = SkipRule(window=8), SkipRule(window=8)
    for norm in range(1, 12):
        first(torch.tensor(float(norm)))
    second.load_state_dict(first.state_dict())
    for norm in (5.0, 60.0, 30.0, 45.0):
        assert first(torch.tensor(norm)) == second(torch.tensor(norm))
    assert torch.equal(first.norms, second.norms)


def test_temperatures_fall_from_start_to_minimum() -> None:
    for schedule in (
        lambda step: exponential_temperature(step, start=2.0, rate=1e-2),
        lambda step: linear_temperature(step, start=2.0, steps=300),
    ):
        values = [schedule(step) for step in range(0, 1000, 10)]
        assert values[0] == 2.0 and values[-1] == 0.5 and values == sorted(values, reverse=True)
    assert exponential_temperature(50, rate=1e-2) == pytest.approx(math.exp(-0.5))
    with pytest.raises(ValueError, match="linear_temperature: start >= minimum > 0"):
        linear_temperature(0, start=0.1)
