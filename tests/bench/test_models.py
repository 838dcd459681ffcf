"""Workloads of whole models: the same network on definitions, and what a model's provider must not do."""

from __future__ import annotations

import pytest
import torch

from genkern.bench import registry
from genkern.bench.definitions import definitions, plain
from genkern.bench.registry import TRAIN
from genkern.bench.runner import Options, run_workload
from genkern.ops import actnorm
from genkern.ops._library import OPS, Op

MODELS = ("glow", "gated_pixelcnn", "ddpm", "vqvae", "cnf")


def test_within_definitions_no_kernel_runs(monkeypatch):
    def refuse(*args):
        raise AssertionError("a kernel ran")

    monkeypatch.setattr(OPS["actnorm"], "overload", refuse)
    x, parameters = torch.randn(2, 3, 4, 4, requires_grad=True), torch.zeros(3)
    with pytest.raises(AssertionError, match="a kernel ran"), torch.no_grad():
        actnorm(x, parameters, parameters)
    with definitions():
        y, _ = actnorm(x, parameters, parameters)
    y.sum().backward()
    assert plain(actnorm)(x, parameters, parameters)[0].shape == x.shape


def test_definitions_end_with_their_block():
    usual = Op.__call__
    with pytest.raises(RuntimeError), definitions():
        raise RuntimeError
    assert Op.__call__ is usual


@pytest.mark.parametrize("name", MODELS)
def test_the_smallest_size_of_a_model_has_right_values(name):
    workload = registry.select([name], sweep=True)[0]
    timer = lambda function, calls: 1e-3  # noqa: E731
    row = run_workload(workload, workload.modes[-1], Options(timer=timer, budget=0.01, quick=True))
    assert {name: timed.status for name, timed in row.providers.items()} == {"genkern": "ok", "eager": "ok"}


def test_training_of_every_model_is_measured_forward_and_backward():
    for name in ("glow", "gated_pixelcnn", "vqvae"):
        assert all(workload.modes == (TRAIN,) for workload in registry.select([name]))
