import pytest
import torch

from genkern.ops import concat_elu
from genkern.testing import Case, OpSuite


class TestConcatELU(OpSuite):
    cases = [
        Case("image", concat_elu, {"x": (3, 5, 7, 3)}),
        Case("wide", concat_elu, {"x": (2, 20, 3, 5)}),
        Case("vectors", concat_elu, {"x": (70, 9)}),
    ]


def test_both_halves_are_elus():
    x = torch.randn(3, 4, 5)
    wanted = torch.cat([torch.nn.functional.elu(x), torch.nn.functional.elu(-x)], dim=1)
    torch.testing.assert_close(concat_elu(x), wanted)


def test_channels_last_stays_channels_last():
    x = torch.randn(2, 32, 5, 6).contiguous(memory_format=torch.channels_last)
    assert concat_elu(x).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(concat_elu(x), concat_elu(x.contiguous()), rtol=0, atol=0)


def test_extreme_and_tiny_inputs_are_exact():
    x = torch.tensor([[100.0, -100.0, 0.0, -1e-6]], requires_grad=True)
    y = concat_elu(x)
    assert torch.equal(y[0, :3].detach(), torch.tensor([100.0, -1.0, 0.0]))
    torch.testing.assert_close(y[0, 3].detach(), torch.tensor(-1e-6).expm1(), rtol=2e-7, atol=0)
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert grad.isfinite().all()


def test_not_a_number_stays_one():
    assert concat_elu(torch.tensor([[float("nan")]])).isnan().all()


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match=r"concat_elu: x must be \[B, C, \*\]; got \[3\]"):
        concat_elu(torch.zeros(3))
    with pytest.raises(TypeError, match="concat_elu: x must be float32"):
        concat_elu(torch.zeros(3, 4, dtype=torch.int64))
