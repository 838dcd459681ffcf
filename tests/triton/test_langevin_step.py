import pytest
import torch
from interpreted import assert_launchers_agree

from genkern import random
from genkern.ops import langevin_step
from genkern.ops.langevin_step import noise, triton
from genkern.testing import Case

KEY = random.key(3)
EACH = torch.tensor([0.3, 0.1, 0.7], dtype=torch.float64)


def case(name, shape, **options):
    return Case(name, langevin_step, {"x": shape, "grad": shape}, {"key": KEY, **options})


CASES = [
    case("plain", (3, 2, 5, 3), step=0.1),
    case("clamped", (3, 1100), step=0.5, clamp_grad=0.7, clamp=(-1.0, 1.0)),
    case("each sample", (3, 7), step=EACH, scale=EACH.float(), clamp=(None, 0.5)),
    case("noise first", (3, 70), step=0.4, scale=0.3, clamp_grad=0.5, clamp=(-0.5, 0.5), order="noise-first"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_launchers_obey_the_rule(case, dtype):
    assert_launchers_agree(case, dtype)


def test_strided_inputs_and_empty_batches_work():
    for layout in ("strided", "transposed"):
        assert_launchers_agree(CASES[1], torch.float32, layout)
    x = torch.zeros(0, 3)
    rest = (x, KEY, None, None, 0.1, 0.1, None, None, None, False, 0)
    assert triton.langevin_step(x, *rest).shape == (0, 3)
    assert [value.shape for value in triton.langevin_norms(x, KEY, 0)] == [(0,), (0,)]


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 20, 19), (70, 3), (4, 0)])
def test_the_noise_has_the_bits_of_the_stream(shape):
    x = torch.zeros(shape)
    rest = (x, KEY, None, None, 0.0, 1.0, None, None, None, False, 2**32 - 2)
    assert torch.equal(triton.langevin_step(x, *rest), random.normal(KEY, shape, sample_offset=2**32 - 2))
    out = torch.zeros(shape)
    triton.langevin_step_out(out, *rest, out)
    assert torch.equal(out, random.normal(KEY, shape, sample_offset=2**32 - 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_norms_agree_with_the_definition(dtype):
    for shape in ((3, 2), (2, 1030), (5,)):
        grad = torch.randn(shape).to(dtype)
        torch.testing.assert_close(triton.langevin_norms(grad, KEY, 7), noise.langevin_norms(grad, KEY, 7))
