"""Every layer of the catalogue is in the package, keeps its word, and stands in the table of the documentation."""

from pathlib import Path

import pytest
import torch

from genkern import nn
from genkern.nn.flows import catalogue
from genkern.nn.flows.catalogue import CATALOGUE, Entry
from genkern.testing import check_flow

CONTAINERS = {"Flow", "FlowSequential", "Inverse"}
BY_NAME = {entry.layer: entry for entry in CATALOGUE}


@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.layer)
def test_a_layer_is_what_the_catalogue_says(entry: Entry) -> None:
    options = {name: value for name, value in entry.checks.items() if name != "context"}
    options.setdefault("second_order", "second" in entry.derivatives)
    layer = entry.example()
    assert type(layer).__name__ == entry.layer
    check_flow(layer, entry.shape, context=entry.context(3), **options)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.layer)
def test_raw_parameters_of_a_hundred_and_far_inputs_have_finite_values_and_gradients(entry: Entry, sign: float) -> None:
    layer, context = entry.example(), entry.context(3)
    x = 30 * torch.randn(3, *entry.shape, generator=torch.Generator().manual_seed(3))
    layer.initialize(x, context)
    layer.double().eval()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for module in layer.modules():
            network = isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
            for parameter in module.parameters(recurse=False):
                if parameter.dim() < 2:  # biases too: what a network gives is about 100
                    parameter.fill_(100 * sign)
                elif not network:
                    parameter.copy_(100 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    x = x.double().requires_grad_()
    z, log_det = layer(x, None if context is None else context.double())
    grads = torch.autograd.grad(z.sum() + log_det.sum(), [x, *layer.parameters()], allow_unused=True)
    for value in (z, log_det, *(grad for grad in grads if grad is not None)):
        assert value.isfinite().all()


def test_every_flow_layer_is_in_the_catalogue() -> None:
    public = [getattr(nn, name) for name in nn.__all__]
    flows = {c.__name__ for c in public if isinstance(c, type) and issubclass(c, nn.Flow)} - CONTAINERS
    assert flows == set(BY_NAME)


def test_the_documentation_holds_the_table_as_the_command_prints_it() -> None:
    page = (Path(__file__).parents[2] / "docs/layers.md").read_text(encoding="utf-8")
    assert catalogue.markdown() in page, "docs/layers.md is behind: paste what `genkern layers --markdown` prints"
