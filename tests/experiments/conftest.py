"""The toy model can be trained by name, on one thread, as in the processes that the tests start."""

import pytest
import torch

from genkern import models


@pytest.fixture(autouse=True)
def _toy_models(monkeypatch):
    monkeypatch.setattr(models, "MODULES", [*models.MODULES, "toy_model"])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
