import pytest
import torch

from genkern import random
from genkern.ops import gumbel_softmax
from genkern.testing import Case, OpSuite, assert_within_rule

KEY = {"key": random.key(3), "sample_offset": 2**32 - 1}


class TestGumbelSoftmax(OpSuite):
    cases = [
        Case("vectors", gumbel_softmax, {"logits": (5, 7)}, {**KEY, "temperature": 0.7}),
        Case("tokens", gumbel_softmax, {"logits": (3, 50, 33)}, {**KEY, "temperature": 2.0}),
        Case("maps", gumbel_softmax, {"logits": (2, 9, 3, 5)}, {**KEY, "dim": 1}),
        Case("middle", gumbel_softmax, {"logits": (2, 3, 400, 3)}, {**KEY, "dim": 2, "temperature": 0.5}),
    ]


def logits(shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("shape", "dim"), [((64, 10), 1), ((4, 33, 65), -1), ((3, 17, 9, 5), 1), ((2, 1500), 1)])
def test_hard_draws_are_one_hot_at_the_largest_and_differentiate_as_the_soft(shape, dim, dtype):
    x, options = logits(shape, dtype).requires_grad_(), {"dim": dim, "temperature": 0.8, "key": random.key(1)}
    hard, soft = gumbel_softmax(x, hard=True, **options), gumbel_softmax(x, **options)
    assert torch.equal(hard, gumbel_softmax(x, hard=True, impl="torch", **options))
    assert torch.equal(hard.sum(dim), torch.ones_like(hard.sum(dim))) and ((hard == 0) | (hard == 1)).all()
    assert (soft.gather(dim, hard.argmax(dim, keepdim=True)) >= soft.amax(dim, keepdim=True)).all()
    weight = logits(shape, dtype, seed=1)
    gradients = [torch.autograd.grad((y * weight).sum(), x)[0] for y in (hard, soft)]
    assert torch.equal(*gradients)


def test_the_second_derivative_of_hard_draws_is_that_of_the_soft():
    def penalty(hard, impl):
        x = logits((3, 5), torch.float64).requires_grad_()
        y = gumbel_softmax(x, hard=hard, key=random.key(1), impl=impl)
        (gradient,) = torch.autograd.grad((y * logits((3, 5), torch.float64, 1)).sum(), x, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), x)[0]

    torch.testing.assert_close(penalty(True, "auto"), penalty(False, "torch"))


def test_the_noise_is_that_of_an_unfused_call():
    x = logits((6, 5, 7))
    u = random.uniform(random.key(2), x.shape, sample_offset=9)
    expected = ((x - torch.log(-torch.log(u.double()))) / 0.3).softmax(-1)
    found = gumbel_softmax(x, 0.3, key=random.key(2), sample_offset=9)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)
    parts = [gumbel_softmax(x[i : i + 2], 0.3, key=random.key(2), sample_offset=9 + i) for i in (0, 2, 4)]
    assert torch.equal(torch.cat(parts), found)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 10.0])
def test_the_largest_element_is_a_draw_from_the_softmax(temperature):
    p = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    y = gumbel_softmax(p.log().expand(20000, 4), temperature, key=random.key(5))
    counts = torch.bincount(y.argmax(1), minlength=4)
    assert ((counts - 20000 * p) ** 2 / (20000 * p)).sum() < 16.3  # 3 degrees of freedom: one chance in a thousand


@pytest.mark.parametrize("impl", ["auto", "torch"])
def test_extreme_logits_have_finite_values_and_gradients(impl):
    x = torch.tensor([[-100.0, 100.0, 0.0], [100.0, 100.0, -100.0]]).requires_grad_()
    for temperature in (1e-3, 1.0, 1e3):
        y = gumbel_softmax(x, temperature, key=random.key(0), impl=impl)
        (gradient,) = torch.autograd.grad(y[:, 0].sum(), x)
        assert y.isfinite().all() and gradient.isfinite().all()
    ruled_out = gumbel_softmax(torch.tensor([[0.0, -torch.inf, 1.0]]).expand(100, 3), key=random.key(0), impl=impl)
    assert (ruled_out[:, 1] == 0).all() and ruled_out.isfinite().all()


def test_only_the_logits_are_saved():
    saved = []
    x = logits((8, 100)).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        gumbel_softmax(x, key=random.key(0))
    assert sum(saved) == 800 + 1


def test_a_large_panel_obeys_the_rule():
    x = logits((1, 3, 4099))
    found = gumbel_softmax(x, 0.5, key=random.key(0))
    plain, truth = (gumbel_softmax(t, 0.5, key=random.key(0), impl="torch") for t in (x, x.double()))
    assert_within_rule(found, plain, truth)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda x: gumbel_softmax(x[0]), ValueError, "logits must be .B, .. with a dimension of classes"),
        (lambda x: gumbel_softmax(x, dim=0), ValueError, "dim must be one after the first; got 0"),
        (lambda x: gumbel_softmax(x, 0.0), ValueError, "temperature must be positive; got 0.0"),
        (lambda x: gumbel_softmax(x, key=3), TypeError, "key must be an int64 tensor; got int"),
        (lambda x: gumbel_softmax(x.int()), TypeError, "logits must be float32, .* got torch.int32"),
        (lambda x: gumbel_softmax(x, impl="fast"), ValueError, "impl must be 'auto' or 'torch', got 'fast'"),
    ],
)
def test_errors_name_the_argument(call, error, text):
    with pytest.raises(error, match=text):
        call(torch.zeros(2, 3))
