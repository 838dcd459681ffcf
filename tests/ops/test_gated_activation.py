import pytest
import torch

from genkern.ops import gated_activation
from genkern.testing import Case, OpSuite

IMAGE = (3, 10, 7, 6)


class TestGatedActivation(OpSuite):
    cases = [
        Case("plain", gated_activation, {"x": IMAGE}),
        Case(
            "all-terms",
            lambda x, bias, condition, link, impl="auto": gated_activation(
                x, bias=bias, condition=condition, link=link, impl=impl
            ),
            {"x": IMAGE, "bias": (10,), "condition": (3, 10), "link": IMAGE},
            batched=False,
        ),
        Case(
            "wide",
            lambda x, condition, impl="auto": gated_activation(x, condition=condition, impl=impl),
            {"x": (2, 70, 3, 5), "condition": (2, 70)},
        ),
        Case(
            "vectors",
            lambda x, condition, link, impl="auto": gated_activation(x, condition=condition, link=link, impl=impl),
            {"x": (70, 14), "condition": (70, 14), "link": (70, 14)},
        ),
        Case(
            "sequence",
            lambda x, link, impl="auto": gated_activation(x, link=link, impl=impl),
            {"x": (2, 6, 33), "link": (2, 6, 33)},
        ),
    ]


def test_an_empty_batch_has_a_bias_gradient_of_zero():
    bias = torch.ones(6, requires_grad=True)
    gated_activation(torch.zeros(0, 6, 4, 4), bias=bias, condition=torch.zeros(0, 6)).sum().backward()
    assert torch.equal(bias.grad, torch.zeros(6))


@pytest.mark.parametrize("shape", [(4, 64, 9, 8), (4, 64, 3, 1, 2), (300, 8)])
@pytest.mark.parametrize("last", [False, True])
def test_terms_are_sums_before_the_gate(shape, last):
    generator = torch.Generator().manual_seed(0)
    x, link = torch.randn(2, *shape, generator=generator)
    if last and x.dim() > 2:
        order = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
        x, link = x.contiguous(memory_format=order), link.contiguous(memory_format=order)
    bias, condition = torch.randn(shape[1], generator=generator), torch.randn(shape[:2], generator=generator)
    terms = [term.requires_grad_() for term in (x, link, bias, condition)]
    weight = torch.randn(shape[0], shape[1] // 2, *shape[2:], generator=generator)
    y = gated_activation(x, bias=bias, condition=condition, link=link)
    wanted = gated_activation(x, bias=bias, condition=condition, link=link, impl="torch")
    torch.testing.assert_close(y, wanted, atol=1e-6, rtol=0)
    assert y.stride() == wanted.stride() or not last
    grads, wanted_grads = (torch.autograd.grad((out * weight).sum(), terms) for out in (y, wanted))
    for grad, wanted_grad in zip(grads, wanted_grads, strict=True):
        torch.testing.assert_close(grad, wanted_grad, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("wanted", ["x", "bias", "condition", "link"])
def test_a_gradient_that_nobody_wants_is_not_computed(wanted):
    terms = {
        "x": torch.randn(IMAGE),
        "bias": torch.randn(10),
        "condition": torch.randn(3, 10),
        "link": torch.randn(IMAGE),
    }
    args = [torch.randn(3, 5, 7, 6), *terms.values(), *(name == wanted for name in terms)]
    everything = torch.ops.genkern.gated_activation_backward(*args[:5])
    for name, grad, full in zip(terms, torch.ops.genkern.gated_activation_backward(*args), everything, strict=True):
        assert grad.numel() == (full.numel() if name == wanted else 0)
        assert name != wanted or torch.equal(grad, full)


def test_extreme_inputs_saturate():
    x = torch.tensor([[100.0, -100.0, 100.0, -100.0, 100.0, 100.0, -100.0, -100.0]], requires_grad=True)
    y = gated_activation(x)
    assert torch.equal(y[0, :2].detach(), torch.tensor([1.0, -1.0])) and y[0, 2:].abs().max() < 1e-30
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert grad.isfinite().all() and grad.abs().max() <= 1e-30


def test_small_inputs_keep_their_relative_precision():
    a = torch.tensor([1e-6, -3e-5, 1e-20, 2e-3])
    y = gated_activation(torch.cat([a, torch.zeros(4)])[None])[0]
    torch.testing.assert_close(y, torch.tanh(a.double()).float() / 2, rtol=3e-7, atol=0)


@pytest.mark.parametrize(
    ("x", "terms", "text"),
    [
        ((2, 5), {}, r"x must be \[B, 2C, \*\]; got \[2, 5\]"),
        ((8,), {}, "x must be"),
        ((2, 6, 4), {"bias": (3,)}, r"bias must be \[6\]; got \[3\] \(x is \[2, 6, 4\]\)"),
        ((2, 6, 4), {"condition": (2, 3)}, r"condition must be \[2, 6\]"),
        ((2, 6, 4), {"link": (2, 6, 5)}, r"link must be \[2, 6, 4\]"),
    ],
)
def test_errors_name_the_argument(x, terms, text):
    with pytest.raises(ValueError, match=f"gated_activation: {text}"):
        gated_activation(torch.zeros(x), **{name: torch.zeros(shape) for name, shape in terms.items()})


def test_wrong_dtypes_are_refused():
    with pytest.raises(TypeError, match="gated_activation: bias must be float32.*got torch.int64"):
        gated_activation(torch.zeros(2, 4), bias=torch.zeros(4, dtype=torch.int64))
