"""Examples print what they say, and what is public says what it takes."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re

import pytest
import torch

import genkern
from genkern import nn, ops, random

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(genkern.__path__, "genkern.")
    if not re.search(r"\.(bench|triton|_C|_cuda|__main__)\b", module.name)
)
FUNCTIONS = {f"ops.{name}": getattr(ops, name) for name in ops.__all__ if inspect.isfunction(getattr(ops, name))}
FUNCTIONS |= {f"random.{name}": getattr(random, name) for name in random.__all__}
LAYERS = {name: getattr(nn, name) for name in nn.__all__ if "__init__" in vars(getattr(nn, name))}


@pytest.mark.parametrize("name", MODULES)
def test_an_example_prints_what_it_says(name):
    torch.manual_seed(0)
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS)
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, name):
        test.globs.update(torch=torch, nn=torch.nn)
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_says_what_it_takes_gives_and_refuses(name):
    doc = FUNCTIONS[name].__doc__
    missing = [part for part in ("Args:", "Returns:", "Raises:") if part not in doc]
    missing += [word for word in inspect.signature(FUNCTIONS[name]).parameters if not re.search(rf"\b{word}\b", doc)]
    assert missing == []


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_says_what_it_is_made_of(name):
    doc = f"{LAYERS[name].__doc__} {vars(LAYERS[name])['__init__'].__doc__}"
    parameters = inspect.signature(LAYERS[name]).parameters.values()
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    assert [word for word in named if not re.search(rf"\b{word}\b", doc)] == []
