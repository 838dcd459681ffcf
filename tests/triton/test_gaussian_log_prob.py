import pytest
import torch
from interpreted import assert_launchers_agree

from genkern.ops import gaussian_log_prob
from genkern.testing import Case

PARAMETERS = ("x", "mean", "log_std")
CASES = [
    Case("image", gaussian_log_prob, dict.fromkeys(PARAMETERS, (3, 7, 5, 3))),
    Case("several-tiles", gaussian_log_prob, dict.fromkeys(PARAMETERS, (2, 4, 31, 37))),
    Case("vectors", gaussian_log_prob, dict.fromkeys(PARAMETERS, (70, 9))),
    Case("scalars", gaussian_log_prob, dict.fromkeys(PARAMETERS, (9,))),
    Case("standard", gaussian_log_prob, {"x": (3, 5, 17, 3)}),
    Case("channels", gaussian_log_prob, {"x": (3, 4, 5, 3), "mean": (4, 1, 1), "log_std": (3, 4, 1, 1)}),
    Case("shared", gaussian_log_prob, {"x": (3, 4, 5, 3), "mean": (1, 4, 5, 3), "log_std": ()}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_launchers_agree_with_the_definition(case, dtype):
    assert_launchers_agree(case, dtype)


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "strided", "guarded"])
def test_layouts_change_nothing(layout):
    assert_launchers_agree(CASES[0], torch.float32, layout)
    assert_launchers_agree(CASES[4], torch.float32, layout)


def test_extreme_scales_give_no_nan():
    from genkern.ops.gaussian_log_prob import triton

    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1e20, -1e20]])
    for log_std in (torch.full((3, 2), 100.0), torch.full((3, 2), -100.0)):
        log_prob = triton.gaussian_log_prob(x, torch.zeros(3, 2), log_std)
        grads = triton.gaussian_log_prob_backward(torch.tensor([1.0, 1.0, 0.0]), x, torch.zeros(3, 2), log_std)
        assert not any(tensor.isnan().any() for tensor in (log_prob, *grads))
