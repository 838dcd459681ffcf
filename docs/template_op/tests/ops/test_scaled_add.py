import pytest
import torch

from genkern.ops.scaled_add import scaled_add
from genkern.testing import Case, OpSuite


class TestSuite(OpSuite):
    cases = [Case("image", scaled_add, {"x": (3, 5, 7, 3), "update": (3, 5, 7, 3)}, {"decay": 0.9, "scale": -0.5})]


def test_a_scale_of_zero_changes_nothing():
    x = torch.randn(5, 7)
    assert torch.equal(scaled_add(x, torch.randn(5, 7), scale=0.0), x)


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match=r"scaled_add: update must be of the shape of x; got \[2\] \(x is \[3\]\)"):
        scaled_add(torch.zeros(3), torch.zeros(2))
