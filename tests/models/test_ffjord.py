"""FFJORD beside what every flow must do: noise by key, evaluations counted, labels, and several scales."""

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from genkern import models, random
from genkern.models.flows import ffjord
from genkern.nn import CNF

KEY = random.key(7)
PICTURE = ffjord.Config((1, 4, 4), 17, scales=2, blocks=1, hidden=4, layers=1, alpha=0.05, solver="rk4")
VECTOR = ffjord.Config((3,), None, blocks=2, hidden=8, layers=1, alpha=None)


def moved(config: ffjord.Config) -> ffjord.FFJORD:
    torch.manual_seed(0)
    model = ffjord.FFJORD(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return model.eval()


def data(config: ffjord.Config, n: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    if config.levels is None:
        return torch.randn(n, *config.shape, generator=generator)
    return torch.randint(0, config.levels, (n, *config.shape), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("config", [PICTURE, VECTOR], ids=["picture", "vector"])
def test_the_estimated_log_prob_is_a_function_of_the_key_and_the_sample(config: ffjord.Config) -> None:
    model, x = moved(config), data(config)
    torch.manual_seed(1)
    first = model.log_prob(x, key=KEY)
    torch.manual_seed(2)
    assert torch.equal(model.log_prob(x, key=KEY), first)
    assert_close(model.log_prob(x[1:], key=KEY, sample_offset=1), first[1:], rtol=1e-3, atol=1e-3)
    assert (model.log_prob(x, key=random.key(8)) - first).abs().min() > 1e-6


def test_the_estimate_has_the_exact_log_prob_for_its_mean() -> None:
    model = moved(VECTOR)
    exact = moved(dataclasses.replace(VECTOR, divergence="exact"))
    x, n = data(VECTOR, 1), 4000
    estimates = model.log_prob(x.expand(n, -1), key=KEY)
    assert (estimates.mean() - exact.log_prob(x)[0]).abs() < 4 * estimates.std() / n**0.5 + 1e-4


def test_evaluations_are_counted_and_logged() -> None:
    model = moved(VECTOR)
    loss = model.loss(data(VECTOR), key=KEY)
    layers = [layer for layer in model.modules() if isinstance(layer, CNF)]
    assert len(layers) == 2 and all(layer.evaluations >= 7 for layer in layers)
    assert loss.terms["evaluations"] == model.evaluations() == sum(layer.evaluations for layer in layers)
    loss.total.backward()
    assert all(layer.backward_evaluations >= 7 for layer in layers)


def test_half_of_the_variables_leave_at_each_scale_but_the_last() -> None:
    model = ffjord.FFJORD(ffjord.Config((1, 8, 8), 17, scales=3, blocks=2, hidden=4, layers=1))
    channels = [layer.velocity.layers[-1].linear.out_channels for layer in model.modules() if isinstance(layer, CNF)]
    assert channels == [1, 1, 4, 4, 2, 2, 8, 8, 4, 4]


@pytest.mark.parametrize("config", [PICTURE, VECTOR], ids=["picture", "vector"])
def test_labels_reach_every_velocity_by_both_gradients(config: ffjord.Config) -> None:
    gradients = []
    for adjoint in (True, False):
        conditional = dataclasses.replace(
            config, classes=3, context=2, adjoint=adjoint, divergence="exact", rtol=1e-6, atol=1e-6, steps=16
        )
        model, y = moved(conditional), torch.tensor([2, 0, 1, 2])
        model.train().loss(models.Batch(data(config), y), key=KEY).total.backward()
        assert model.embedding.weight.grad.abs().sum(1).min() > 0
        gradients.append([p.grad for p in model.parameters()])
        assert model.sample(3, key=KEY, y=1).shape == (3, *config.shape)
    assert_close(gradients[0], gradients[1], rtol=2e-3, atol=1e-5)


def test_data_are_reconstructed_to_the_solvers_tolerance() -> None:
    for config in (dataclasses.replace(PICTURE, solver="dopri5"), VECTOR):
        model, x = moved(config), data(config)
        assert model.reconstruction_error(x, key=KEY) < 1e-3
        assert_close(model.reconstruct(x, key=KEY), x, rtol=0, atol=0 if config.levels else 1e-3)
