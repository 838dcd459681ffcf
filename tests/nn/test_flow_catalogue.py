"""Every layer of the catalogue is in the package, keeps its word, and stands in the table of the documentation."""

from pathlib import Path

import pytest

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


def test_every_flow_layer_is_in_the_catalogue() -> None:
    public = [getattr(nn, name) for name in nn.__all__]
    flows = {c.__name__ for c in public if isinstance(c, type) and issubclass(c, nn.Flow)} - CONTAINERS
    assert flows == set(BY_NAME)


def test_the_documentation_holds_the_table_as_the_command_prints_it() -> None:
    page = (Path(__file__).parents[2] / "docs/layers.md").read_text(encoding="utf-8")
    assert catalogue.markdown() in page, "docs/layers.md is behind: paste what `genkern layers --markdown` prints"
