import pytest
import torch
from interpreted import assert_launchers_agree

from genkern import random
from genkern.ops import diffusion_loss
from genkern.ops.diffusion_loss import triton
from genkern.testing import Case, assert_same_bits

KEY = {"key": random.key(3), "sample_offset": 2**32 - 2}


def any_target(output, x0, p, q, **options):
    return diffusion_loss(output, x0, target=(p, q), **options)


CASES = [
    Case("epsilon", diffusion_loss, dict.fromkeys(("output", "x0"), (3, 5, 7, 3)), KEY),
    Case("sample", diffusion_loss, dict.fromkeys(("output", "x0"), (2, 1100)), KEY | {"prediction_type": "sample"}),
    Case("any", any_target, {"output": (70, 3), "x0": (70, 3), "p": (70,), "q": (70,)}, KEY),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_launchers_agree_with_the_definition(case, dtype):
    assert_launchers_agree(case, dtype)


def test_layouts_change_nothing():
    for layout in ("channels_last", "transposed", "strided"):
        assert_launchers_agree(CASES[0], torch.float32, layout)


def test_empty_samples_cost_nothing():
    for shape in ((0, 4), (4, 0)):
        nothing, of = torch.zeros(shape), torch.ones(shape[0])
        assert_same_bits(triton.diffusion_loss(nothing, nothing, of, of, random.key(0), 0), torch.zeros(shape[0]))


def test_only_what_is_needed_is_computed():
    output, x0, p, q = torch.randn(3, 5), torch.randn(3, 5), torch.rand(3), torch.rand(3)
    call = (torch.randn(3), output, x0, p, q, random.key(0), 0)
    everything = triton.diffusion_loss_backward(*call)
    for i in range(4):
        alone = triton.diffusion_loss_backward(*call, *(i == j for j in range(4)))
        assert_same_bits(alone[i], everything[i])
        assert sum(grad.numel() for grad in alone) == everything[i].numel()
