import pytest
import torch

from genkern.ops import quantile_huber
from genkern.testing import Case, OpSuite

IMAGE = {"x": (3, 2, 7, 5), "q": (3, 2, 7, 5), "tau": (3, 2, 7, 5)}


class TestQuantileHuber(OpSuite):
    cases = [
        Case("sharp", quantile_huber, IMAGE, {"kappa": 0.002}),
        Case("wide", quantile_huber, {name: (70, 19) for name in IMAGE}, {"kappa": 1.0}),
    ]


@pytest.mark.parametrize("wanted", ["x", "q", "tau"])
def test_a_gradient_that_nobody_wants_is_not_computed(wanted):
    values = {"x": torch.randn(5, 300), "q": torch.randn(5, 300), "tau": torch.rand(5, 300)}
    args = (torch.randn(5, 300), *values.values(), 0.1)
    everything = torch.ops.genkern.quantile_huber_backward(*args)
    found = torch.ops.genkern.quantile_huber_backward(*args, *(name == wanted for name in values))
    for name, grad, full in zip(values, found, everything, strict=True):
        assert grad.numel() == (full.numel() if name == wanted else 0)
        assert name != wanted or torch.equal(grad, full)


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9])
def test_the_minimiser_is_the_quantile(level):
    x = torch.arange(1001, dtype=torch.float64) / 1000
    q = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([q], lr=0.3)
    for _ in range(200):
        optimizer.zero_grad()
        quantile_huber(x, q.expand_as(x), torch.full_like(x, level), kappa=0.001).mean().backward()
        optimizer.step()
    assert abs(q.item() - level) <= 2e-3


def test_far_away_it_is_the_quantile_loss():
    u = torch.tensor([5.0, -5.0])
    loss = quantile_huber(u, torch.zeros(2), torch.full((2,), 0.75), kappa=0.002)
    torch.testing.assert_close(loss, torch.tensor([0.75 * 4.999, 0.25 * 4.999]))


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match=r"quantile_huber: tau must be of the shape of x; got \[2\] \(x is \[3\]\)"):
        quantile_huber(torch.zeros(3), torch.zeros(3), torch.zeros(2))
    with pytest.raises(ValueError, match="quantile_huber: kappa must be positive; got 0"):
        quantile_huber(torch.zeros(3), torch.zeros(3), torch.zeros(3), kappa=0)
    with pytest.raises(TypeError, match="quantile_huber: q must be float32"):
        quantile_huber(torch.zeros(3), torch.zeros(3, dtype=torch.int64), torch.zeros(3))
