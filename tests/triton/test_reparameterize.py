import pytest
import torch
from interpreted import assert_launchers_agree

from genkern import random
from genkern.ops import reparameterize
from genkern.testing import Case

KEY = {"key": random.key(3), "sample_offset": 2**32 - 1}
UNIT = ("mean", "logvar")
PRIOR = ("mean", "logvar", "prior_mean", "prior_logvar")
CASES = [
    Case("unit", reparameterize, dict.fromkeys(UNIT, (3, 2, 5, 3)), KEY),
    Case("unit-several-tiles", reparameterize, dict.fromkeys(UNIT, (2, 1501)), KEY),
    Case("unit-many-rows", reparameterize, dict.fromkeys(UNIT, (70, 9)), KEY),
    Case("unit-elements", reparameterize, dict.fromkeys(UNIT, (3, 3)), {**KEY, "kl": "element"}),
    Case("prior", reparameterize, dict.fromkeys(PRIOR, (3, 4, 5, 3)), KEY),
    Case("prior-elements", reparameterize, dict.fromkeys(PRIOR, (2, 33)), {**KEY, "kl": "element"}),
    Case("shared", reparameterize, {**dict.fromkeys(UNIT, (3, 4, 5)), "prior_mean": (4, 1), "prior_logvar": ()}, KEY),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_launchers_agree_with_the_definition(case, dtype):
    assert_launchers_agree(case, dtype)


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "strided", "guarded"])
def test_layouts_change_nothing(layout):
    assert_launchers_agree(CASES[0], torch.float32, layout)
    assert_launchers_agree(CASES[4], torch.float32, layout)


def test_the_noise_has_the_bits_of_an_unfused_call():
    from genkern.ops.reparameterize import triton

    zero = torch.zeros(3, 1030)
    z, _ = triton.reparameterize(zero, zero, random.key(8), False, 2**32 - 2)
    assert torch.equal(z, random.normal(random.key(8), (3, 1030), sample_offset=2**32 - 2))


def test_extreme_parameters_have_finite_values_and_gradients():
    from genkern.ops.reparameterize import triton

    given = [x.reshape(-1, 1) for x in torch.cartesian_prod(*[torch.tensor([-100.0, 0.0, 100.0])] * 4).T]
    ones = torch.ones(81, 1), torch.ones(81)
    for outputs in (
        triton.reparameterize(*given[:2], random.key(0), False, 0),
        triton.reparameterize_backward(*ones, *given[:2], random.key(0), False, 0),
        triton.reparameterize_prior(*given, random.key(0), False, 0),
        triton.reparameterize_prior_backward(*ones, *given, random.key(0), False, 0),
    ):
        assert all(tensor.isfinite().all() for tensor in outputs)
