import pytest
import torch
from interpreted import assert_launchers_agree

from genkern.ops import gaussian_kl
from genkern.testing import Case

NAMES = ("mean", "logvar", "prior_mean", "prior_logvar")
CASES = [
    Case("image", gaussian_kl, dict.fromkeys(NAMES, (3, 7, 5, 3))),
    Case("several-tiles", gaussian_kl, dict.fromkeys(NAMES, (2, 4, 31, 37))),
    Case("vectors", gaussian_kl, dict.fromkeys(NAMES, (70, 9))),
    Case("standard", gaussian_kl, dict.fromkeys(NAMES[:2], (3, 5, 17))),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_launchers_agree_with_the_definition(case, dtype):
    assert_launchers_agree(case, dtype)


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "strided", "guarded"])
def test_layouts_change_nothing(layout):
    assert_launchers_agree(CASES[0], torch.float32, layout)


@pytest.mark.parametrize("logvar", [100.0, -100.0])
@pytest.mark.parametrize("prior_logvar", [100.0, -100.0])
def test_extreme_variances_give_no_nan(logvar, prior_logvar):
    from genkern.ops.gaussian_kl import triton

    inputs = [
        torch.tensor([[0.0, 1.0]]),
        torch.full((1, 2), logvar),
        torch.zeros(1, 2),
        torch.full((1, 2), prior_logvar),
    ]
    grads = triton.gaussian_kl_backward(torch.ones(1), *inputs)
    assert all(tensor.isfinite().all() for tensor in (triton.gaussian_kl(*inputs), *grads))
