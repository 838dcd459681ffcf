import pytest
import torch
from interpreted import assert_launchers_agree

from genkern import random
from genkern.ops import diffusion_step
from genkern.ops.diffusion_step import noise
from genkern.testing import Case

triton = pytest.importorskip("genkern.ops.diffusion_step.triton")

EACH = torch.randn(3, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 2
TABLE, STEPS = torch.cat([EACH, EACH.flip(1)]), torch.tensor([4, 0, 2])
THRESHOLD = torch.tensor([0.5, 1.0, 1.5])


def step(x, model_output, *optional, names=(), impl="auto", **options):
    return diffusion_step(x, model_output, **dict(zip(names, optional, strict=True)), impl=impl, **options)


def case(name, *names, **options):
    shapes = dict.fromkeys(("x", "model_output", *names), (3, 5, 4))
    return Case(name, step, shapes, {"names": names, **options})


CASES = [
    case("clipped", coefficients=EACH, clip=0.4, key=random.key(5), sample_offset=3),
    case("guided", "unconditional", coefficients=EACH, guidance=2.5, rescale=0.7),
    case("multistep", "previous", coefficients=TABLE, step=STEPS),
    case("learned", "log_variance", coefficients=TABLE, step=STEPS, key=STEPS + 7, threshold=THRESHOLD),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_launchers_agree_with_the_definition(case, dtype):
    assert_launchers_agree(case, dtype)


@pytest.mark.parametrize("shape", [(3, 5), (2, 1100), (5,), (0, 4)])
def test_noise_has_the_bits_of_the_definition(shape):
    x, absent = torch.zeros(shape), torch.zeros(0)
    row = torch.tensor([[0.0, 0, 0, 0, 0, 0, 1, 0, 0]]).expand(8, 9)
    each = torch.arange(shape[0]) + 2**40
    for key in (random.key(-5), each):
        for step in (torch.tensor(3), each % 8):
            call = (x, x, absent, absent, absent, row, None, key, step, 1.0, 0.0, -1.0, 1.0, True, 2**32 - 1)
            for found, wanted in zip(triton.diffusion_step(*call), noise.diffusion_step(*call), strict=True):
                assert torch.equal(found, wanted)


def test_the_output_may_be_the_input():
    x, output, absent = torch.randn(3, 7), torch.randn(3, 7), torch.zeros(0)
    call = (output, absent, absent, absent, torch.randn(1, 9), None, None, None, 1.0, 0.0, -1.0, 1.0, True, 0)
    wanted, x0 = triton.diffusion_step(x, *call)
    y = x.clone()
    triton.diffusion_step_out(y, *call, y, output)
    assert torch.equal(y, wanted) and torch.equal(output, x0)
