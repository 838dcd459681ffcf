import math

import pytest
import torch

from genkern.ops import gaussian_log_prob
from genkern.testing import Case, OpSuite, assert_within_rule


def of_mean(x, mean, **options):
    return gaussian_log_prob(x, mean, **options)


def of_log_std(x, log_std, **options):
    return gaussian_log_prob(x, log_std=log_std, **options)


class TestGaussianLogProb(OpSuite):
    cases = [
        Case("image", gaussian_log_prob, dict.fromkeys(("x", "mean", "log_std"), (3, 5, 7, 3))),
        Case("vector", gaussian_log_prob, dict.fromkeys(("x", "mean", "log_std"), (4, 70))),
        Case("long", gaussian_log_prob, dict.fromkeys(("x", "mean", "log_std"), (2, 3, 29, 53))),
        Case("standard", gaussian_log_prob, {"x": (5, 3, 9, 8)}),
        Case("mean-only", of_mean, {"x": (3, 33), "mean": (3, 33)}),
        Case(
            "channels",
            gaussian_log_prob,
            {"x": (3, 4, 5, 3), "mean": (4, 1, 1), "log_std": (1, 4, 1, 1)},
            batched=False,
        ),
        Case("shared", of_log_std, {"x": (3, 4, 5), "log_std": (1, 4, 5)}, batched=False),
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_the_log_density_of_torch_distributions(dtype):
    x, mean, log_std = torch.randn(3, 4, 6, 5, 2, dtype=dtype, generator=torch.Generator().manual_seed(0))
    expected = torch.distributions.Normal(mean, log_std.exp()).log_prob(x).flatten(1).sum(1)
    torch.testing.assert_close(gaussian_log_prob(x, mean, log_std), expected)
    standard = torch.distributions.Normal(0.0, 1.0).log_prob(x).flatten(1).sum(1)
    torch.testing.assert_close(gaussian_log_prob(x), standard)


def test_the_density_integrates_to_one():
    axis = torch.linspace(-12, 12, 401, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    mean, log_std = torch.tensor([1.0, -2.0]).double(), torch.tensor([0.3, -0.7]).double()
    for parameters in ((mean, log_std), (None, log_std), (mean, None), (None, None)):
        mass = gaussian_log_prob(grid, *parameters).exp().sum() * (axis[1] - axis[0]) ** 2
        assert abs(mass - 1) < 1e-6


@pytest.mark.parametrize("log_std", [100.0, -100.0])
@pytest.mark.parametrize("impl", ["auto", "torch"])
def test_extreme_scales_give_no_nan(log_std, impl):
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1e30, -1e30]], requires_grad=True)
    s = torch.full((3, 2), log_std, requires_grad=True)
    log_prob = gaussian_log_prob(x, torch.zeros(3, 2), s, impl=impl)
    grads = torch.autograd.grad(log_prob.sum(), (x, s))
    assert not any(tensor.isnan().any() for tensor in (log_prob, *grads))
    assert log_prob[0].item() == pytest.approx(-2 * (log_std + 0.5 * math.log(2 * math.pi)))
    assert all(grad[0].isfinite().all() for grad in grads)


def test_a_gradient_of_zero_stays_zero_beside_overflow():
    x, s = torch.full((2, 40), 1e20, requires_grad=True), torch.full((2, 40), -100.0, requires_grad=True)
    grads = torch.autograd.grad(gaussian_log_prob(x, torch.zeros(2, 40), s), (x, s), torch.zeros(2))
    assert all(torch.equal(grad, torch.zeros(2, 40)) for grad in grads)


def test_the_sum_over_a_large_sample_keeps_float32_digits():
    x = torch.randn(2, 48, 64, 64, generator=torch.Generator().manual_seed(0))
    mean, log_std = x.roll(1, -1), x.roll(2, -1)
    exact = gaussian_log_prob(x.double(), mean.double(), log_std.double(), impl="torch")
    assert ((gaussian_log_prob(x, mean, log_std).double() - exact) / exact).abs().max() < 2e-7
    standard = gaussian_log_prob(x.double(), impl="torch")
    assert ((gaussian_log_prob(x).double() - standard) / standard).abs().max() < 2e-7


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_result_is_float32_for_half_precision(dtype):
    x, mean, log_std = torch.randn(3, 8, 500, generator=torch.Generator().manual_seed(1)).to(dtype)
    exact = gaussian_log_prob(x.double(), mean.double(), log_std.double(), impl="torch")
    plain = gaussian_log_prob(x.float(), mean.float(), log_std.float(), impl="torch")
    found = gaussian_log_prob(x, mean, log_std)
    assert found.dtype == torch.float32
    assert_within_rule(found, plain, exact)


def test_mixed_dtypes_are_promoted():
    x = torch.randn(2, 3).bfloat16()
    mean = torch.randn(2, 3)
    assert torch.equal(gaussian_log_prob(x, mean), gaussian_log_prob(x.float(), mean))
    assert gaussian_log_prob(x, mean.double()).dtype == torch.float64


@pytest.mark.parametrize("shape", [(4, 1, 1), (1, 4, 1, 1), (3, 4, 1, 1), (1, 4, 5, 6), (3, 1, 1, 1), (6,), ()])
def test_a_broadcast_parameter_is_the_expanded_one(shape):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(3, 4, 5, 6, generator=generator)
    mean, log_std = (torch.randn(shape, generator=generator).requires_grad_() for _ in range(2))
    found = gaussian_log_prob(x, mean, log_std)
    full = [(tensor + torch.zeros(x.shape)) for tensor in (mean, log_std)]
    wanted = gaussian_log_prob(x, *full)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0)
    weights = torch.tensor([1.0, -2.0, 0.5])
    grads = torch.autograd.grad(found, (mean, log_std), weights)
    torch.testing.assert_close(grads, torch.autograd.grad(wanted, (mean, log_std), weights))
    channels_last = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(gaussian_log_prob(channels_last, mean, log_std), wanted)


def test_compiled_gradients_of_any_layout_keep_the_inputs_strides():
    def penalty(x, mean, log_std):
        return torch.autograd.grad(gaussian_log_prob(x, mean, log_std).sum(), (x, mean, log_std))

    x = torch.randn(2, 3, 4, 5, requires_grad=True)
    inputs = [x, x.detach().transpose(1, 3).contiguous().transpose(1, 3).requires_grad_(),
              x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()]  # fmt: skip
    wanted = penalty(*inputs)

    torch._dynamo.reset()
    total = torch.compile(lambda *tensors: gaussian_log_prob(*tensors).sum(), fullgraph=True)
    torch.testing.assert_close(torch.autograd.grad(total(*inputs), inputs), wanted)


@pytest.mark.parametrize(
    ("shapes", "text"),
    [
        (((8, 6), (7, 6)), r"mean must be broadcastable to x; got \[7, 6\] \(x is \[8, 6\]\)"),
        (((8, 6), (6,), (8,)), r"log_std must be broadcastable to x; got \[8\] \(x is \[8, 6\]\)"),
        (((8, 1), (8, 6)), r"mean must be broadcastable to x; got \[8, 6\] \(x is \[8, 1\]\)"),
        (((6,), (1, 6)), "mean must be broadcastable"),
        (((),), r"x must be \[B, \*\]; got \[\]"),
    ],
)
def test_errors_name_the_argument(shapes, text):
    with pytest.raises(ValueError, match=f"gaussian_log_prob: {text}"):
        gaussian_log_prob(*map(torch.zeros, shapes))


def test_wrong_dtypes_are_refused():
    with pytest.raises(TypeError, match="gaussian_log_prob: x must be float32.*got torch.uint8"):
        gaussian_log_prob(torch.zeros(2, 4, dtype=torch.uint8))
    with pytest.raises(TypeError, match="gaussian_log_prob: mean must be a tensor; got float"):
        gaussian_log_prob(torch.zeros(2, 4), 0.0)
