"""Planar flow, i-ResNet and residual flow: the change of variables, the estimates' error, fitting an energy."""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from genkern import models, random
from genkern.models.flows import iresnet, planar_flow, residual_flow
from genkern.models.flows._base import FlowModel
from genkern.testing import jacobian_log_det

DIGITS = {"shape": (1, 4, 4), "levels": 17}
VECTOR = {"shape": (2,), "levels": None, "alpha": None}
TINY: dict[str, FlowModel] = {
    "planar": planar_flow.PlanarFlow(planar_flow.Config(layers=4)),
    "planar pictures": planar_flow.PlanarFlow(planar_flow.Config(**DIGITS, layers=3)),
    "radial sampler": planar_flow.PlanarFlow(planar_flow.Config(layers=4, kind="radial", closed="sampling")),
    "iresnet exact": iresnet.IResNet(iresnet.Config(**VECTOR, blocks=2, hidden=8, exact=True)),
    "iresnet": iresnet.IResNet(iresnet.Config(**DIGITS, scales=2, blocks=1, hidden=4)),
    "residual exact": residual_flow.ResidualFlowModel(
        residual_flow.Config(**VECTOR, blocks=2, hidden=8, exact=True, policy="invert")
    ),
    "residual": residual_flow.ResidualFlowModel(
        residual_flow.Config(**DIGITS, scales=2, blocks=1, hidden=4, dense_blocks=1, dense_hidden=8)
    ),
}
KEY = random.key(7)


def data(model: FlowModel, n: int = 4) -> Tensor:
    generator, shape = torch.Generator().manual_seed(3), (n, *model.config.shape)
    if model.config.levels is None:
        return torch.randn(shape, generator=generator)
    return torch.randint(0, model.config.levels, shape, generator=generator, dtype=torch.uint8)


def moved(name: str, dtype: torch.dtype = torch.float32) -> FlowModel:
    """The model, initialised and with parameters of no special values, in evaluation mode."""
    torch.manual_seed(0)
    fresh = type(TINY[name])(TINY[name].config)
    fresh.initialize(data(fresh, 16), key=KEY)
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return fresh.to(dtype).eval()


@pytest.mark.parametrize("name", TINY)
def test_log_prob_is_the_change_of_variables_up_to_a_known_error(name: str) -> None:
    model = moved(name, torch.float64)
    x = data(model, 2)
    y, log_det = model.dequantize(x, key=KEY)
    truth = model.prior.log_prob(model.encode(x, key=KEY)[0]) + log_det
    truth = truth + jacobian_log_det(lambda sample: model.flow(sample)[0], y)
    if name == "residual":
        mean, error = model.log_prob_and_error(x, key=KEY, draws=64)
        assert ((mean - truth).abs() <= 5 * error + 1e-6).all() and (error > 0).all() and (error < 1).all()
    elif name == "iresnet":
        assert (model.log_prob(x, key=KEY) - truth).abs().max() < 3
    else:
        assert_close(model.log_prob(x, key=KEY), truth, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", TINY)
def test_data_come_back_and_samples_have_the_models_log_prob(name: str) -> None:
    model = moved(name)
    x = data(model)
    assert model.reconstruction_error(x, key=KEY) < 1e-3
    samples, log_prob = model.sample_and_log_prob(6, key=KEY)
    assert samples.shape == (6, *model.config.shape) and samples.dtype == x.dtype
    if model.config.levels is None:
        assert_close(log_prob, model.log_prob(samples), rtol=1e-3, atol=1e-3)


def test_the_estimated_log_prob_is_a_function_of_the_key_and_the_sample() -> None:
    model = moved("residual")
    x = data(model)
    first = model.log_prob(x, key=KEY)
    torch.manual_seed(2)
    assert torch.equal(model.log_prob(x, key=KEY), first)
    assert_close(model.log_prob(x[1:], key=KEY, sample_offset=1), first[1:], rtol=1e-4, atol=1e-4)
    assert (model.log_prob(x, key=random.key(8)) - first).abs().min() > 1e-6


@pytest.mark.parametrize("name", TINY)
def test_the_loss_reaches_every_parameter(name: str) -> None:
    model = moved(name).train()
    model.loss(data(model), key=KEY).total.backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]


@pytest.mark.parametrize("name", TINY)
def test_save_and_load_give_the_same_bits(name: str, tmp_path) -> None:
    model = moved(name)
    model.save(tmp_path)
    loaded = models.load(tmp_path)
    assert torch.equal(loaded.log_prob(data(model), key=KEY), model.log_prob(data(model), key=KEY))


@pytest.mark.parametrize("family", [planar_flow, iresnet, residual_flow])
def test_every_preset_is_in_the_registry(family) -> None:
    assert family.PRESETS.items() <= {name: preset.config for name, preset in models.presets().items()}.items()


@pytest.mark.parametrize("name", ["planar-small", "iresnet-small", "residual-flow-small"])
def test_a_new_small_model_is_no_worse_than_the_uniform_one_after_initialisation(name: str) -> None:
    torch.manual_seed(0)
    model = models.build(name)
    x = data(model, 64)
    model.initialize(x, key=KEY)
    assert model.loss(x, key=KEY).total < math.log2(17) * 1.6


def test_a_planar_flow_fits_an_energy_and_never_beats_its_normaliser() -> None:
    torch.manual_seed(0)
    model = planar_flow.PlanarFlow(planar_flow.Config(layers=8, closed="sampling"))
    grid = torch.linspace(-6, 6, 601, dtype=torch.float64)
    points = torch.stack(torch.meshgrid(grid, grid, indexing="ij"), -1).flatten(0, 1)
    log_z = torch.logsumexp(-planar_flow.ring(points), 0).item() + 2 * math.log((grid[1] - grid[0]).item())
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    before = model.free_energy(planar_flow.ring, 4000, key=KEY).item()
    for step in range(300):
        optimizer.zero_grad()
        model.free_energy(planar_flow.ring, 128, key=random.fold_in(KEY, step)).backward()
        optimizer.step()
    after = model.free_energy(planar_flow.ring, 20000, key=random.key(9)).item()
    assert -log_z - 0.02 <= after < before - 2, (before, after, -log_z)


@pytest.mark.parametrize("name", planar_flow.ENERGIES)
def test_the_energies_are_densities_within_their_walls(name: str) -> None:
    x = 3 * torch.randn(50, 2, dtype=torch.float64, requires_grad=True)
    energy = planar_flow.confined(planar_flow.ENERGIES[name])
    (grad,) = torch.autograd.grad(energy(x).sum(), x)
    assert grad.isfinite().all()
    assert (energy(torch.tensor([[9.0, 0.0], [-9.0, 0.0]])) > 30).all()


def test_wrong_options_say_what_is_right() -> None:
    with pytest.raises(ValueError, match="PlanarFlow: kind must be one of .*; got 'conic'"):
        planar_flow.PlanarFlow(planar_flow.Config(kind="conic"))
    with pytest.raises(ValueError, match="PlanarFlow: closed must be 'density' or 'sampling'; got 'both'"):
        planar_flow.PlanarFlow(planar_flow.Config(closed="both"))
    with pytest.raises(ValueError, match="scales=3 need a height and width"):
        iresnet.IResNet(iresnet.Config(shape=(1, 4, 4), scales=4))
