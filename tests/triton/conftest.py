"""Triton kernels on CPU tensors, in the interpreter: run as a pytest process of its own,

TRITON_INTERPRET=1 pytest tests/triton
"""

import os

import pytest
import torch
from torch import Tensor


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("TRITON_INTERPRET") != "1":
        for item in items:
            if "tests/triton" in str(item.path):
                item.add_marker(pytest.mark.skip(reason="needs a process with TRITON_INTERPRET=1"))


@pytest.fixture(autouse=True)
def poisoned_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh floating tensors are NaN, so that every element that a kernel leaves unwritten is seen."""

    def poison(allocate):
        def poisoned(*args, **kwargs):
            tensor = allocate(*args, **kwargs)
            return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

        return poisoned

    monkeypatch.setattr(torch, "empty_like", poison(torch.empty_like))
    monkeypatch.setattr(torch, "empty", poison(torch.empty))
    monkeypatch.setattr(Tensor, "new_empty", poison(Tensor.new_empty))
