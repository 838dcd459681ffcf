"""The drop-ins compute what vector-quantize-pytorch does, step for step; its records are in `peers`."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from genkern import nn as library

PEERS = Path(__file__).parent / "peers"
sys.path.insert(0, str(PEERS))
from make_vector_quantize import CASES, STEPS, batch, options  # noqa: E402

RECORDS = load_file(PEERS / "vector_quantize.safetensors")


def group(name: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(f"{name}/"): value for key, value in RECORDS.items() if key.startswith(f"{name}/")}


@pytest.mark.parametrize("name", CASES)
def test_a_training_run_is_that_of_the_peer(name):
    kind, arguments, shape, forward = CASES[name]
    layer = getattr(library, kind)(**arguments)
    missing, unexpected = layer.load_state_dict(group(f"{name}/before"), strict=False)
    assert not missing and not unexpected
    for step in range(STEPS + 1):
        layer.train(step < STEPS)
        x = batch(shape, step).requires_grad_()
        outputs = [value for value in layer(x, **options(forward)) if value is not None]
        record = group(f"{name}/{step}")
        gradient = record.pop("gradient", None)
        assert len(outputs) == len(record)
        for i, value in enumerate(outputs):
            wanted = record[str(i)]
            assert value.dtype == wanted.dtype and value.shape == wanted.shape, i
            assert_close(value, wanted, rtol=1e-6, atol=1e-5 if name.startswith("lfq") and i == 2 else 2e-6)
        if step < STEPS:
            (outputs[0].square().sum() + sum(loss.sum() for loss in outputs[2:])).backward()
            assert_close(x.grad, gradient, rtol=1e-5, atol=1e-4 if name.startswith("lfq") else 1e-5)
            layer.zero_grad()
    for key, wanted in group(f"{name}/after").items():
        assert_close(layer.state_dict()[key], wanted, rtol=1e-6, atol=1e-6)
    decode = "get_output_from_indices" if hasattr(layer, "get_output_from_indices") else "indices_to_codes"
    found, wanted = getattr(layer, decode)(outputs[1].clamp(min=0)), RECORDS[f"{name}/decoded"]
    assert_close(found, wanted.reshape(found.shape), rtol=1e-6, atol=1e-6)  # the peer leaves shared heads side by side
