import pytest
import torch
from interpreted import assert_launchers_agree

from genkern import random
from genkern.ops import discretized_mixture_logistics
from genkern.ops.discretized_mixture_logistics import reference, triton
from genkern.testing import Case

GENERATOR = torch.Generator().manual_seed(0)


def case(name, shape, channels, levels, **options):
    x = torch.randint(0, levels, (shape[0], channels, *shape[2:]), generator=GENERATOR)
    return Case(name, discretized_mixture_logistics, {"params": shape}, {"x": x, "levels": levels, **options})


CASES = [
    case("colour", (2, 30, 5, 3), 3, 256),
    case("grey-several-tiles", (2, 6, 13, 12), 1, 17),
    case("closed", (2, 6, 7), 1, 32, open_edges=False, high=0.9),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_launchers_agree_with_the_definition(case, dtype):
    assert_launchers_agree(case, dtype)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_same_noise_draws_the_same_levels(channels, temperature):
    params = torch.randn(2, 3 * (3 if channels == 1 else 10), 7, 5, dtype=torch.float64, generator=GENERATOR)
    noise = random.uniform(random.key(0), (2, channels + 1, 7, 5), dtype=torch.float64)
    args = (params, noise, 32, -1.0, 1.0, -7.0, temperature, torch.uint8)
    drawn = triton.discretized_mixture_logistics_sample(*args)
    assert torch.equal(drawn, reference.discretized_mixture_logistics_sample(*args))
