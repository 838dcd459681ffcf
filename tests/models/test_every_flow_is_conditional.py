"""Every flow model takes labels: by a Gaussian for each class, by networks that see the label, or by both."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from genkern import models, random
from genkern.models.flows import (
    emerging,
    ffjord,
    glow,
    iaf,
    iresnet,
    maf,
    nice,
    nsf,
    planar_flow,
    realnvp,
    residual_flow,
)
from genkern.models.flows._base import FlowModel

PICTURE: dict[str, Any] = {"shape": (1, 4, 4), "levels": None, "alpha": None}
VECTOR: dict[str, Any] = {"shape": (3,), "levels": None, "alpha": None}
CONFIGS: dict[str, tuple[type[FlowModel], Any]] = {
    "nice": (nice.NICE, nice.Config(**VECTOR, hidden=8, layers=1, prior="gaussian")),
    "realnvp": (realnvp.RealNVP, realnvp.Config(**VECTOR, couplings=4, hidden=8, blocks=1)),
    "realnvp pictures": (realnvp.RealNVP, realnvp.Config(**PICTURE, couplings=2, hidden=4, blocks=1)),
    "glow": (glow.Glow, glow.Config(**PICTURE, scales=2, steps=1, hidden=4)),
    "glow vectors": (glow.Glow, glow.Config(**VECTOR, steps=2, hidden=4)),
    "planar_flow": (planar_flow.PlanarFlow, planar_flow.Config(**VECTOR, layers=4)),
    "planar_flow radial": (planar_flow.PlanarFlow, planar_flow.Config(**VECTOR, layers=4, kind="radial")),
    "emerging": (emerging.Emerging, emerging.Config(**PICTURE, scales=1, steps=1, hidden=4)),
    "emerging periodic": (
        emerging.Emerging,
        emerging.Config(**PICTURE, scales=1, steps=1, hidden=4, mixing="periodic"),
    ),
    "emerging vectors": (emerging.Emerging, emerging.Config(**VECTOR, steps=2, hidden=4)),
    "iresnet": (iresnet.IResNet, iresnet.Config(**VECTOR, blocks=2, hidden=8)),
    "iresnet pictures": (iresnet.IResNet, iresnet.Config(**PICTURE, scales=2, blocks=1, hidden=4)),
    "residual_flow": (residual_flow.ResidualFlowModel, residual_flow.Config(**VECTOR, blocks=2, hidden=8, exact=True)),
    "residual_flow pictures": (
        residual_flow.ResidualFlowModel,
        residual_flow.Config(**PICTURE, scales=2, blocks=1, hidden=4, dense_blocks=1, dense_hidden=8),
    ),
    "ffjord": (ffjord.FFJORD, ffjord.Config(**VECTOR, blocks=1, hidden=8, layers=1, solver="rk4", adjoint=False)),
    "maf": (maf.MAF, maf.Config(**VECTOR, layers=2, hidden=12)),
    "iaf": (iaf.IAF, iaf.Config(**VECTOR, steps=2, hidden=12)),
    "nsf": (nsf.NSF, nsf.Config(**VECTOR, steps=2, bins=3, hidden=8, blocks=1)),
    "nsf pictures": (nsf.NSF, nsf.Config(**PICTURE, scales=1, steps=1, bins=3, hidden=4, blocks=1)),
}  # fmt: skip
CONDITIONS = {"base": {"classes": 3}, "networks and base": {"classes": 3, "context": 4}}
LABELS = torch.tensor([2, 0, 1, 2])
KEY = random.key(7)


def data(model: FlowModel, n: int = 4) -> Tensor:
    return torch.randn(n, *model.config.shape, generator=torch.Generator().manual_seed(3))


def moved(name: str, **conditions: int) -> FlowModel:
    """The model in evaluation mode, with parameters of no special values."""
    family, config = CONFIGS[name]
    torch.manual_seed(0)
    model = family(dataclasses.replace(config, **conditions))
    model.initialize(models.Batch(data(model, 16), LABELS.repeat(4)), key=KEY)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    model.train().loss(models.Batch(data(model), LABELS), key=KEY)  # moves running statistics
    return model.eval()


def test_no_flow_model_is_left_out() -> None:
    modules = {path.rsplit(".", 1)[1] for path in models.MODULES if ".flows." in path}
    assert modules == {name.split()[0] for name in CONFIGS}
    assert all({"classes", "context", "dequantization"} <= vars(config).keys() for _, config in CONFIGS.values())


@pytest.mark.parametrize("conditions", CONDITIONS.values(), ids=CONDITIONS)
@pytest.mark.parametrize("name", CONFIGS)
def test_the_density_is_another_for_each_label_and_their_mixture_without_one(name: str, conditions: Any) -> None:
    model = moved(name, **conditions)
    x = data(model)
    each = torch.stack([model.log_prob(x, y=c, key=KEY) for c in range(3)], dim=1)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (each[:, a] - each[:, b]).abs().min() > 1e-4
    assert_close(model.log_prob(x, y=LABELS, key=KEY), each[torch.arange(4), LABELS], rtol=1e-4, atol=1e-4)
    assert_close(model.log_prob(x, key=KEY), each.logsumexp(1) - math.log(3), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_networks_themselves_see_the_label_and_learn_from_it(name: str) -> None:
    model = moved(name, classes=3, context=4)
    x = data(model)
    z = [model.encode(x, y=c, key=KEY)[0] for c in range(3)]
    assert all((z[a] - z[b]).flatten(1).abs().amax(1).min() > 1e-4 for a, b in ((0, 1), (0, 2), (1, 2)))
    model.train().loss(models.Batch(x, LABELS), key=KEY).total.backward()
    assert model.embedding.weight.grad.abs().sum(1).min() > 0
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]


@pytest.mark.parametrize("conditions", CONDITIONS.values(), ids=CONDITIONS)
@pytest.mark.parametrize("name", CONFIGS)
def test_samples_of_a_label_are_its_own_and_data_come_back_under_any(name: str, conditions: Any) -> None:
    model = moved(name, **conditions)
    first, second = (model.sample(5, key=KEY, y=c) for c in (1, 2))
    assert first.shape == (5, *model.config.shape) and (first - second).flatten(1).abs().amax(1).min() > 1e-4
    mixed = model.sample(5, key=KEY, y=torch.tensor([2, 1, 2, 1, 2]))
    for i, wanted in enumerate((second, first, second, first, second)):
        assert_close(mixed[i], wanted[i], rtol=1e-3, atol=1e-3)
    for y in (1, LABELS):
        assert model.reconstruction_error(data(model), y=y, key=KEY) < 2e-3


@pytest.mark.parametrize("name", CONFIGS)
def test_a_context_of_the_callers_changes_the_density_and_has_a_gradient(name: str) -> None:
    family, config = CONFIGS[name]
    torch.manual_seed(0)
    model = family(dataclasses.replace(config, context=4))
    x, context = data(model), torch.randn(4, 4, requires_grad=True)
    model.initialize(x, context=context.detach(), key=KEY)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    model.eval()
    log_prob = model.log_prob(x, context=context, key=KEY)
    (grad,) = torch.autograd.grad(log_prob.sum(), context)
    assert grad.isfinite().all() and grad.abs().amax(1).min() > 0
    assert (model.log_prob(x, context=context + 1, key=KEY) - log_prob).abs().min() > 1e-4
    assert model.sample(4, key=KEY, context=context.detach()).shape == x.shape


@pytest.mark.parametrize("name", [name for name in CONFIGS if " " not in name])
def test_what_is_drawn_for_a_label_is_like_its_data(name: str) -> None:
    family, config = CONFIGS[name]
    torch.manual_seed(0)
    model = family(dataclasses.replace(config, classes=2, context=4)).train()
    optimizer = torch.optim.Adam(model.parameters(), 2e-2)
    y = torch.arange(64) % 2
    for step in range(60):
        x = torch.where(y == 1, 1.5, -1.5).view(-1, *[1] * len(config.shape)) + 0.5 * torch.randn(64, *config.shape)
        if step == 0:
            model.initialize(models.Batch(x, y), key=KEY)
        optimizer.zero_grad()
        model.loss(models.Batch(x, y), key=random.fold_in(KEY, step)).total.backward()
        optimizer.step()
    model.eval()
    means = [model.sample(64, key=KEY, y=c).mean().item() for c in (0, 1)]
    assert means[0] < -0.7 and means[1] > 0.7, means
