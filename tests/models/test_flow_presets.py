"""Every flow model has a preset for vectors, 8x8, 28x28 and 32x32, and every preset takes a training step."""

from collections import defaultdict

import pytest
import torch
from torch import Tensor

from genkern import models, random

PRESETS = {name: preset for name, preset in models.presets().items() if ".flows." in preset.model.__module__}
SMALLER = {  # where a step takes seconds: fewer blocks of the same sizes, or fewer steps of the solver
    "ffjord": {"training_steps": 1, "adjoint": False},
    "ffjord-mnist": {"training_steps": 1, "adjoint": False},
    "glow": {"steps": 4},
    "emerging": {"steps": 4},
    "iresnet": {"blocks": 1},
    "residual-flow": {"blocks": 1, "dense_blocks": 1},
    "maf": {"layers": 2, "hidden": 512},
    "nice-cifar10": {"hidden": 500},
}
KEY = random.key(7)


def data(config, n: int = 2) -> Tensor:
    generator, shape = torch.Generator().manual_seed(3), (n, *config.shape)
    if config.levels is None:
        return torch.randn(shape, generator=generator)
    return torch.randint(0, config.levels, shape, generator=generator, dtype=torch.uint8)


def test_every_model_has_a_preset_for_vectors_and_three_sizes_of_pictures() -> None:
    sizes = defaultdict(set)
    for preset in PRESETS.values():
        sizes[preset.model.__name__].add(preset.config.shape[1:])
    assert len(sizes) == 11
    for model, found in sizes.items():
        assert {(), (8, 8), (28, 28), (32, 32)} <= found, f"{model} has presets for {found}"


@pytest.mark.parametrize("name", PRESETS)
def test_a_step_of_training_reaches_every_parameter_and_stays_finite(name: str) -> None:
    torch.manual_seed(0)
    model = models.build(name, **SMALLER.get(name, {})).train()
    x = data(model.config)
    model.initialize(x, key=KEY)
    optimizer = torch.optim.SGD(model.parameters(), 1e-9)
    before = model.loss(x, key=KEY).total
    before.backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert sum(p.grad.abs().sum() for p in model.parameters()) > 0
    optimizer.step()
    with torch.no_grad():
        after = model.loss(x, key=KEY).total
    assert before.isfinite() and (after - before).abs() < 0.1 * before.abs() + 0.1
