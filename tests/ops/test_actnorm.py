import pytest
import torch

from genkern.ops import actnorm
from genkern.ops.actnorm import channel_affine
from genkern.testing import Case, OpSuite, assert_same_bits, jacobian_log_det

IMAGE = {"x": (3, 5, 4, 3), "log_scale": (5,), "bias": (5,)}
LONG = {"x": (2, 3, 33, 37), "log_scale": (3,), "bias": (3,)}
VECTOR = {"x": (150, 7), "log_scale": (7,), "bias": (7,)}
FORMS = ["scale_then_shift", "shift_then_scale"]


class TestActNorm(OpSuite):
    cases = [
        Case("image", actnorm, IMAGE, batched=False),
        Case("image-shift-first", actnorm, IMAGE, {"form": "shift_then_scale"}, batched=False),
        Case("long-inverse", actnorm, LONG, {"inverse": True}, batched=False),
        Case("vector-inverse", actnorm, VECTOR, {"form": "shift_then_scale", "inverse": True}, batched=False),
        Case("wide", actnorm, {"x": (3, 700), "log_scale": (700,), "bias": (700,)}, batched=False),
    ]


def draw(channels, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(channels, generator=generator, dtype=dtype) for _ in range(2)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("inverse", [False, True])
def test_log_det_is_that_of_the_jacobian(form, inverse):
    x, parameters = torch.randn(3, 4, 3, 2, dtype=torch.float64), draw(4)
    expected = jacobian_log_det(lambda x: actnorm(x, *parameters, form=form, inverse=inverse)[0], x)
    log_det = actnorm(x, *parameters, form=form, inverse=inverse)[1]
    assert (log_det - expected).abs().max() <= 1e-9
    narrow = actnorm(x.float(), *(p.float() for p in parameters), form=form, inverse=inverse)[1]
    assert (narrow - expected).abs().max() <= 1e-4


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_inverse_undoes_forward(form, dtype, tolerance):
    x, parameters = torch.randn(4, 6, 8, 8, dtype=dtype), draw(6, dtype)
    y, log_det = actnorm(x, *parameters, form=form)
    back, log_det_back = actnorm(y, *parameters, form=form, inverse=True)
    assert (back - x).abs().max() <= tolerance * max(1, y.abs().max())
    assert torch.equal(log_det, -log_det_back)


@pytest.mark.parametrize("impl", ["auto", "torch"])
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("sites", [(), (64,)])
def test_scales_that_overflow_alone_give_what_can_be_represented(impl, inverse, sites):
    sign = -1 if inverse else 1
    log_scale = sign * torch.tensor([100.0, 100.0, -100.0, -100.0])
    column = torch.tensor([0.0, 1e-20, 1e20, 0.0])
    x = column.reshape(4, *(1 for _ in sites)).expand(2, 4, *sites).clone().requires_grad_()
    s, b = log_scale.requires_grad_(), torch.zeros(4, requires_grad=True)
    y, log_det = actnorm(x, s, b, inverse=inverse, impl=impl)
    wanted = column.double() * torch.tensor([100.0, 100.0, -100.0, -100.0]).double().exp()
    assert torch.allclose(y.double(), wanted.reshape(4, *(1 for _ in sites)).expand_as(y), rtol=1e-5, atol=1e-45)
    assert log_det.isfinite().all()
    grads = torch.autograd.grad((y, log_det), (x, s, b), (1e-10 * torch.ones_like(y), torch.ones(2)))
    assert all(grad.isfinite().all() for grad in grads[1:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_y_keeps_the_dtype_of_x_and_log_det_is_wide(dtype):
    x, parameters = torch.randn(2, 3, 4).to(dtype), draw(3, torch.float32)
    y, log_det = actnorm(x, *parameters)
    assert y.dtype == dtype
    assert log_det.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_float64_parameters_widen_everything():
    y, log_det = actnorm(torch.randn(2, 3, 4), *draw(3))
    assert y.dtype == log_det.dtype == torch.float64


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (0, 3), (1, 3, 4, 4), (1, 3), (2, 3, 0), (3, 1, 5), (2, 1)])
def test_empty_and_single_batches_work(shape):
    x = torch.randn(shape, requires_grad=True)
    parameters = [p.requires_grad_() for p in draw(shape[1], torch.float32)]
    outputs = {impl: actnorm(x, *parameters, impl=impl) for impl in ("auto", "torch")}
    grads = {
        impl: torch.autograd.grad(outs, (x, *parameters), [torch.ones_like(out) for out in outs])
        for impl, outs in outputs.items()
    }
    for kernel, reference in zip((*outputs["auto"], *grads["auto"]), (*outputs["torch"], *grads["torch"]), strict=True):
        torch.testing.assert_close(kernel, reference)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1), (2, 0, 3, 1), (1, 0, 2, 3), (3, 1, 0, 2)])
def test_any_order_of_dimensions_is_kept_and_changes_nothing(order):
    """Memory in the given order of [B, C, H, W]; gradients and outputs come back in that order."""
    inverse_order = [order.index(d) for d in range(4)]
    x = torch.randn(5, 40, 7, 6, dtype=torch.float64)
    laid = x.permute(order).contiguous().permute(inverse_order).requires_grad_()
    parameters = [p.requires_grad_() for p in draw(40)]
    y, log_det = actnorm(laid, *parameters)
    expected = actnorm(x, *parameters, impl="torch")
    assert y.stride() == laid.stride()
    torch.testing.assert_close((y, log_det), expected)
    weights = torch.randn_like(x)
    grads = torch.autograd.grad((y * weights).sum(), (laid, *parameters))
    wanted = torch.autograd.grad((expected[0] * weights).sum(), parameters)
    assert grads[0].stride() == laid.stride()
    torch.testing.assert_close(grads[1:], wanted)


def sums_run(monkeypatch, compute):
    """How often a backward kernel that sums over x was run, told by its flags."""
    seen, launch = [], channel_affine.overload_backward

    def counted(*args):
        seen.append(any(args[-3:]))
        return launch(*args)

    monkeypatch.setattr(channel_affine, "overload_backward", counted)
    compute()
    return seen


def test_a_gradient_penalty_does_not_pay_for_the_parameters(monkeypatch):
    x, (s, b) = torch.randn(3, 4, 5, requires_grad=True), (p.requires_grad_() for p in draw(4, torch.float32))
    behind = x * 2

    def both():
        return sum(out.sum() for out in actnorm(x * 2, s, b))

    assert sums_run(monkeypatch, lambda: torch.autograd.grad(both(), [x])) == [False]
    assert sums_run(monkeypatch, lambda: torch.autograd.grad(actnorm(behind, s, b)[0].sum(), [behind])) == [False]
    assert sums_run(monkeypatch, lambda: torch.autograd.grad(actnorm(x, s, b)[0].sum(), [x])) == [False]
    assert sums_run(monkeypatch, lambda: torch.autograd.grad(both(), [s])) == [True]
    assert sums_run(monkeypatch, lambda: both().backward()) == [True]
    assert sums_run(monkeypatch, lambda: both().backward(inputs=[x])) == [False]
    assert sums_run(monkeypatch, lambda: torch.func.grad(lambda x: actnorm(x, s, b)[0].sum())(x)) == [False]


def test_a_gradient_penalty_still_trains_the_parameters():
    def penalty(impl):
        x = torch.randn(3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_()
        s, b = (p.requires_grad_() for p in draw(4))
        y, log_det = actnorm(x * x, s, b, impl=impl)
        (grad,) = torch.autograd.grad(y.square().sum() + log_det.sum(), [x], create_graph=True)
        grad.square().sum().backward()
        return x.grad, s.grad, b.grad

    torch.testing.assert_close(penalty("auto"), penalty("torch"))


def test_sums_over_many_sites_are_better_than_sequential_float32():
    x = torch.rand(4, 2, 512, 512) + 1.0
    s, b = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    grads = torch.autograd.grad(actnorm(x, s, b)[0].sum(), (s, b))
    truth = torch.stack([x.double().sum((0, 2, 3)), torch.full((2,), 4.0 * 512 * 512, dtype=torch.float64)])
    assert ((torch.stack(grads) - truth) / truth).abs().max() <= 2e-7


def test_any_number_of_threads_gives_the_same_bits():
    x, parameters = torch.randn(9, 33, 17, 5), [p.requires_grad_() for p in draw(33, torch.float32)]

    def grads():
        return torch.autograd.grad(actnorm(x, *parameters)[0].square().sum(), parameters)

    expected, threads = grads(), torch.get_num_threads()
    try:
        for count in (1, 2, 3, 5):
            torch.set_num_threads(count)
            assert_same_bits(grads(), expected)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("x", "log_scale", "bias", "options", "text"),
    [
        ((8, 6, 4), (5,), (6,), {}, r"log_scale must be \[C\]; got \[5\] \(x is \[8, 6, 4\]\)"),
        ((8, 6, 4), (6,), (6, 1), {}, r"bias must be \[C\]; got \[6, 1\]"),
        ((8,), (8,), (8,), {}, r"x must be \[B, C, \*\]; got \[8\]"),
        ((8, 6), (6,), (6,), {"form": "both"}, "form must be one of .*got 'both'"),
        ((8, 6), (6,), (6,), {"impl": "fast"}, "impl must be"),
    ],
)
def test_errors_name_the_argument(x, log_scale, bias, options, text):
    with pytest.raises(ValueError, match=f"actnorm: {text}"):
        actnorm(torch.zeros(x), torch.zeros(log_scale), torch.zeros(bias), **options)


def test_wrong_dtypes_are_refused():
    with pytest.raises(TypeError, match="actnorm: x must be float32.*got torch.int64"):
        actnorm(torch.zeros(2, 4, dtype=torch.int64), torch.zeros(4), torch.zeros(4))
    with pytest.raises(TypeError, match="actnorm: bias must be a tensor; got float"):
        actnorm(torch.zeros(2, 4), torch.zeros(4), 0.0)
