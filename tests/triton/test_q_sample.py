import pytest
import torch
from interpreted import assert_launchers_agree

from genkern import random
from genkern.ops import q_sample
from genkern.ops.q_sample import triton
from genkern.testing import Case, assert_same_bits

KEY = {"key": random.key(3), "sample_offset": 2**32 - 2}


def shapes(*x0):
    return {"x0": x0, "alpha": (x0[0],), "sigma": (x0[0],)}


CASES = [
    Case("image", q_sample, shapes(3, 5, 7, 3), KEY),
    Case("short", q_sample, shapes(70, 3), KEY),
    Case("long", q_sample, shapes(2, 1100), KEY),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_launchers_agree_with_the_definition(case, dtype):
    assert_launchers_agree(case, dtype)


def test_layouts_change_nothing():
    for layout in ("channels_last", "transposed", "strided"):
        assert_launchers_agree(CASES[0], torch.float32, layout)


@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 20, 19), (1, 1), (0, 4), (4, 0), (5,)])
def test_its_noise_is_that_of_the_key(shape):
    alpha, sigma = torch.zeros(shape[0]), torch.ones(shape[0])
    found = triton.q_sample(torch.zeros(shape), alpha, sigma, random.key(1), 2**32 - 2)
    assert_same_bits(found, random.normal(random.key(1), shape, sample_offset=2**32 - 2))


def test_it_writes_where_it_is_told_to():
    x0, alpha, sigma = torch.randn(5, 3, 4, 4), torch.rand(5), torch.rand(5)
    wanted = triton.q_sample(x0, alpha, sigma, random.key(1), 0)
    for out in (torch.empty_like(x0), torch.empty_like(x0, memory_format=torch.channels_last), x0):
        triton.q_sample_out(x0, alpha, sigma, random.key(1), 0, out)
        assert_same_bits(out, wanted)


def test_only_what_is_needed_is_computed():
    x0, alpha, sigma = torch.randn(3, 5), torch.rand(3), torch.rand(3)
    call = (torch.randn(3, 5), x0, alpha, sigma, random.key(0), 0)
    everything = triton.q_sample_backward(*call)
    for i in range(3):
        alone = triton.q_sample_backward(*call, *(i == j for j in range(3)))
        assert_same_bits(alone[i], everything[i])
        assert sum(grad.numel() for grad in alone) == everything[i].numel()
