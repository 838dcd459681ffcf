"""The 1x1 convolution is one linear map per pixel; its batched LU agrees with float64 slogdet and inv."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from genkern.ops.invertible_conv1x1 import (
    fold_actnorm,
    folded_weight,
    inverse,
    inverse_and_log_abs_det,
    invertible_conv1x1,
    log_abs_det,
)
from genkern.testing import Case, OpSuite

SIZES = (1, 2, 3, 48, 96, 129)
ULP = {torch.float32: 2.0**-23, torch.float64: 2.0**-52}


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def matrices(sizes: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [random(n, n, seed=n + 1000 * m, dtype=dtype) for m, n in enumerate(sizes)]


def orthogonal(n: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(random(n, n, seed=seed))[0]


def assert_as_exact_as_torch(value: Tensor, torchs: Tensor, exact: Tensor) -> None:
    """error <= 2 * (error of plain PyTorch in the same dtype) + 1 ulp, both relative to the largest entry."""
    scale = exact.abs().max().clamp_min(1)
    error, allowed = (value.double() - exact).abs().max(), (torchs.double() - exact).abs().max()
    assert error <= 2 * allowed + ULP[value.dtype] * scale


def stacked(weights: Tensor, impl: str) -> tuple[Tensor, Tensor]:
    """A well-conditioned stack, so that rounding is what the tolerance rule compares."""
    found, log_dets = inverse_and_log_abs_det(weights + 4 * torch.eye(weights.shape[-1]).to(weights), impl=impl)
    return found, log_dets


def mixed(first: Tensor, second: Tensor, third: Tensor, impl: str) -> Tensor:
    return log_abs_det([first, second, third], impl=impl)


def convolved(x: Tensor, weight: Tensor, bias: Tensor, impl: str, inverse: bool = False) -> tuple[Tensor, Tensor]:
    weight = weight + 3 * torch.eye(len(weight)).to(weight)
    return invertible_conv1x1(x, weight, bias, inverse=inverse, impl=impl)


class TestMatrices(OpSuite):
    cases = [
        Case("stack", stacked, {"weights": (2, 3, 3)}, batched=False),
        Case("mixed", mixed, {"first": (4, 4), "second": (1, 1), "third": (2, 2)}, batched=False),
    ]


def folded(weight: Tensor, log_scale: Tensor, bias: Tensor, impl: str, form: str) -> tuple[Tensor, Tensor, Tensor]:
    weight = weight + 3 * torch.eye(len(weight)).to(weight)
    return folded_weight(weight, log_scale, bias, form=form, impl=impl)


class TestFoldedWeight(OpSuite):
    cases = [
        Case(form, folded, {"weight": (5, 5), "log_scale": (5,), "bias": (5,)}, {"form": form}, 0.5, batched=False)
        for form in ("scale_then_shift", "shift_then_scale")
    ]


class TestInvertibleConv1x1(OpSuite):
    cases = [
        Case("image", convolved, {"x": (3, 4, 3, 5), "weight": (4, 4), "bias": (4,)}, batched=False),
        Case("strips", convolved, {"x": (1, 3, 9, 8), "weight": (3, 3), "bias": (3,)}, batched=False),
        Case(
            "inverse", convolved, {"x": (2, 3, 4, 2), "weight": (3, 3), "bias": (3,)}, {"inverse": True}, batched=False
        ),
    ]


# -- log_abs_det and inverse: values ---------------------------------------------------------------------------------


@pytest.mark.parametrize("n", SIZES)
def test_float32_matrices_are_inverted_as_exactly_as_by_torch(n):
    (weight,) = matrices((n,), torch.float32)
    found, log_det = inverse_and_log_abs_det(weight)
    exact = weight.double()
    assert_as_exact_as_torch(found, torch.linalg.inv(weight), torch.linalg.inv(exact))
    assert_as_exact_as_torch(log_det, torch.linalg.slogdet(weight)[1], torch.linalg.slogdet(exact)[1])


@pytest.mark.parametrize("n", SIZES)
def test_float64_log_dets_and_inverses_are_those_of_slogdet_and_inv(n):
    (weight,) = matrices((n,))
    found, log_det = inverse_and_log_abs_det(weight)
    condition = float(torch.linalg.cond(weight))
    torch.testing.assert_close(log_det[0], torch.linalg.slogdet(weight)[1], rtol=0, atol=1e-15 * n * condition)
    assert (found @ weight - torch.eye(n, dtype=torch.float64)).abs().max() < 1e-15 * n * condition


def test_inverses_of_orthogonal_matrices_are_their_transposes():
    weights = [orthogonal(n) for n in SIZES]
    found, log_dets = inverse_and_log_abs_det(weights)
    for weight, inverted in zip(weights, found, strict=True):
        torch.testing.assert_close(inverted, weight.T, rtol=0, atol=1e-13)
    torch.testing.assert_close(log_dets, torch.zeros(len(SIZES), dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_call_on_mixed_sizes_equals_a_call_for_each(dtype):
    weights = matrices((3, 3, 48, 1, 2, 96, 2, 2, 12), dtype)
    found, log_dets = inverse_and_log_abs_det(weights)
    for m, weight in enumerate(weights):
        alone, log_det = inverse_and_log_abs_det(weight)
        assert torch.equal(found[m], alone)
        assert torch.equal(log_dets[m : m + 1], log_det)


def test_the_forms_of_weights_come_back():
    stack = random(4, 3, 3)
    assert inverse(stack).shape == (4, 3, 3) and log_abs_det(stack).shape == (4,)
    assert inverse(stack[0]).shape == (3, 3) and log_abs_det(stack[0]).shape == (1,)
    assert [w.shape for w in inverse(list(stack))] == [(3, 3)] * 4
    assert log_abs_det(stack[:0]).shape == (0,) and inverse(stack[:0]).shape == (0, 3, 3)
    assert log_abs_det([]).shape == (0,) and inverse([]) == []
    transposed = stack.mT
    torch.testing.assert_close(inverse(transposed), inverse(stack).mT)
    torch.testing.assert_close(inverse(stack[0].expand(5, 3, 3))[4], inverse(stack)[0])


def test_the_determinant_alone_equals_the_one_beside_the_inverse():
    weights = matrices(SIZES)
    alone, beside = log_abs_det(weights), inverse_and_log_abs_det(weights)[1]
    torch.testing.assert_close(alone, beside, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_log_dets_neither_underflow_nor_overflow(scale):
    weight = (scale * torch.eye(48, dtype=torch.float64)).float()
    found, log_det = inverse_and_log_abs_det(weight)
    assert math.isclose(log_det.item(), 48 * math.log(weight[0, 0].item()), rel_tol=1e-7)
    torch.testing.assert_close(found, torch.eye(48) / scale)


def test_log_dets_of_float64_survive_beyond_its_range():
    for scale in (1e-300, 1e300):
        found = log_abs_det(scale * torch.eye(96, dtype=torch.float64))
        assert math.isclose(found.item(), 96 * math.log(scale), rel_tol=1e-14)


def test_permutations_and_negative_determinants_are_exact():
    weight = torch.eye(5)[[1, 0, 2, 4, 3]] * torch.tensor([1.0, -2, 4, 0.5, 1])
    found, log_det = inverse_and_log_abs_det(weight)
    assert math.isclose(log_det.item(), math.log(4), rel_tol=1e-7)
    assert torch.equal(found @ weight, torch.eye(5))
    for n in (1, 2, 3, 48):
        flat, (sign, _) = random(n, n, seed=n), torch.linalg.slogdet(random(n, n, seed=n))
        assert torch.ops.genkern.lu_inverse(flat.reshape(-1), [n], False)[1] == sign


def test_a_nearly_singular_matrix_keeps_its_log_det():
    basis, other = orthogonal(12), orthogonal(12, seed=1)
    weight = basis * torch.logspace(0, -9, 12, dtype=torch.float64) @ other
    expected = math.log(10) * -9 * 12 / 2
    assert abs(log_abs_det(weight).item() - expected) < 1e-6
    residual = inverse(weight) @ weight - torch.eye(12, dtype=torch.float64)
    assert residual.abs().max() < 1e-5


@pytest.mark.parametrize("impl", ["auto", "torch"])
def test_a_singular_matrix_has_log_det_minus_infinity_and_leaves_its_neighbours_alone(impl):
    weights = [torch.tensor([[1.0, 2.0], [2.0, 4.0]]), torch.zeros(3, 3), 2 * torch.eye(2)]
    weights = [w.requires_grad_() for w in weights]
    log_dets = log_abs_det(weights, impl=impl)
    assert log_dets[:2].tolist() == [-math.inf, -math.inf]
    assert math.isclose(log_dets[2].item(), math.log(4), rel_tol=1e-6)
    log_dets.sum().backward()
    assert not weights[0].grad.any() and not weights[1].grad.any()
    torch.testing.assert_close(weights[2].grad, torch.eye(2) / 2)


@pytest.mark.parametrize("impl", ["auto", "torch"])
def test_inverting_a_singular_matrix_names_it(impl):
    weights = [torch.eye(3), torch.ones(2, 2)]
    with pytest.raises(ValueError, match=r"inverse: weights\[1\] must be invertible; got a singular \[2, 2\]"):
        inverse(weights, impl=impl)
    found = inverse(weights, check_singular=False, impl=impl)
    assert found[1].isnan().all() and torch.equal(found[0], torch.eye(3))
    with pytest.raises(ValueError, match="invertible_conv1x1: weight must be invertible"):
        invertible_conv1x1(torch.ones(1, 2), weights[1], inverse=True)


def test_nan_does_not_hide_below_a_zero_pivot():
    nan = math.nan
    for weight in ([[0.0, 1.0], [nan, 0.0]], [[nan, 0.0], [0.0, 1.0]], [[0.0, 1.0, 1.0], [nan, 0.0, 1.0], [0.0] * 3]):
        assert log_abs_det(torch.tensor(weight)).isnan().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_are_computed_wide(dtype):
    weight = random(12, 12, dtype=dtype)
    found, log_det = inverse_and_log_abs_det(weight)
    assert found.dtype == dtype and log_det.dtype == torch.float32
    torch.testing.assert_close(log_det[0].double(), torch.linalg.slogdet(weight.double())[1], rtol=1e-6, atol=1e-6)
    assert torch.equal(found, torch.linalg.inv(weight.double()).float().to(dtype))


# -- log_abs_det and inverse: derivatives ----------------------------------------------------------------------------


def parameters(*sizes: int) -> list[Tensor]:
    return [w.requires_grad_() for w in matrices(sizes)]


@pytest.mark.parametrize("impl", ["auto", "torch"])
def test_first_and_second_derivatives_of_log_dets_and_inverses(impl):
    weights = parameters(1, 3, 3, 2)
    for function in (lambda *w: log_abs_det(w, impl=impl), lambda *w: tuple(inverse(w, impl=impl))):
        assert gradcheck(function, weights, check_forward_ad=True)
        assert gradgradcheck(function, weights)


def test_the_gradient_of_the_log_det_is_the_inverse_transposed():
    weights = parameters(48, 3, 129)
    grads = torch.autograd.grad(log_abs_det(weights).sum(), weights)
    for weight, grad in zip(weights, grads, strict=True):
        torch.testing.assert_close(grad, torch.linalg.inv(weight.detach()).T, rtol=1e-9, atol=1e-9)


def test_function_transforms_agree_with_torch():
    weight = random(3, 2, 2)
    expected = torch.func.hessian(lambda w: torch.linalg.slogdet(w)[1].sum())(weight)
    torch.testing.assert_close(torch.func.hessian(lambda w: log_abs_det(w).sum())(weight), expected)
    jacobian = torch.func.jacfwd(inverse)(weight)
    torch.testing.assert_close(jacobian, torch.func.jacrev(torch.linalg.inv)(weight))
    batched = torch.vmap(log_abs_det, in_dims=1)(random(4, 5, 3, 3))
    torch.testing.assert_close(batched, torch.linalg.slogdet(random(4, 5, 3, 3))[1].T)
    per_sample = torch.vmap(torch.func.grad(lambda w: log_abs_det(w).sum()))(weight)
    torch.testing.assert_close(per_sample, torch.linalg.inv(weight).mT)


def test_the_dispatcher_op_rejects_sizes_that_do_not_add_up():
    for sizes in ([2, 2], [0, 3], [-3]):
        with pytest.raises(RuntimeError, match="lu_inverse: "):
            torch.ops.genkern.lu_inverse(torch.ones(9), sizes, True)


# -- the convolution -------------------------------------------------------------------------------------------------


def layer(channels: int, *spatial: int, batch: int = 2, dtype: torch.dtype = torch.float64):
    x = random(batch, channels, *spatial, seed=1, dtype=dtype)
    return x, random(channels, channels, seed=2, dtype=dtype), random(channels, seed=3, dtype=dtype)


@pytest.mark.parametrize("spatial", [(), (5,), (2, 3), (2, 1, 3), (1, 2, 2, 2)])
@pytest.mark.parametrize("inverted", [False, True])
def test_log_det_is_that_of_the_jacobian_of_the_whole_op(spatial, inverted):
    x, weight, bias = layer(3, *spatial)

    def flat(sample):
        return invertible_conv1x1(sample[None], weight, bias, inverse=inverted)[0].flatten()

    _, log_det = invertible_conv1x1(x, weight, bias, inverse=inverted)
    for b, sample in enumerate(x):
        jacobian = torch.func.jacrev(flat)(sample).reshape(sample.numel(), -1)
        assert abs(torch.linalg.slogdet(jacobian)[1] - log_det[b]) <= 1e-9


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("channels", [1, 3, 48])
def test_inverse_undoes_forward(channels, dtype, tolerance):
    x, _, bias = layer(channels, 4, 4, dtype=dtype)
    weight = orthogonal(channels).to(dtype) * 1.3
    y, log_det = invertible_conv1x1(x, weight, bias)
    back, inverse_log_det = invertible_conv1x1(y, weight, bias, inverse=True)
    assert (back - x).abs().max() <= tolerance
    assert torch.equal(log_det, -inverse_log_det)


@pytest.mark.parametrize("spatial", [(), (1, 2)])
def test_derivatives_for_vectors_and_for_more_channels_than_pixels(spatial):
    inputs = [t.requires_grad_() for t in layer(9, *spatial)]
    assert gradcheck(invertible_conv1x1, inputs, fast_mode=True, check_forward_ad=True)
    assert gradgradcheck(invertible_conv1x1, inputs, fast_mode=True)


def layouts(x: Tensor) -> dict[str, Tensor]:
    return {
        "channels_last": x.to(memory_format=torch.channels_last),
        "transposed": x.mT.contiguous().mT,
        "sliced": torch.cat([x, x], dim=1)[:, : x.shape[1]],
        "strided": x.repeat_interleave(2, dim=3)[..., ::2],
        "expanded": x[:, :, :1, :1].expand(x.shape),
    }


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "sliced", "strided", "expanded"])
def test_values_and_gradients_do_not_depend_on_strides(layout):
    x, weight, bias = layer(6, 4, 4)
    strided = layouts(x)[layout]
    dense = strided.clone(memory_format=torch.contiguous_format)
    results = []
    for value in (strided, dense):
        value, w = value.detach().requires_grad_(), weight.clone().requires_grad_()
        y, log_det = invertible_conv1x1(value, w, bias)
        (y.sin().sum() + log_det.sum()).backward()
        results.append((y, log_det, value.grad, w.grad))
    torch.testing.assert_close(results[0], results[1])


def test_channels_last_stays_channels_last():
    x, weight, bias = layer(6, 4, 4)
    y, _ = invertible_conv1x1(x.to(memory_format=torch.channels_last), weight, bias)
    assert y.is_contiguous(memory_format=torch.channels_last)
    y, _ = invertible_conv1x1(x, weight, bias)
    assert y.is_contiguous()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_a_float32_log_det(dtype):
    x, weight, bias = layer(12, 8, 8, dtype=dtype)
    y, log_det = invertible_conv1x1(x, weight, bias)
    assert y.dtype == dtype and log_det.dtype == torch.float32
    exact, exact_log_det = invertible_conv1x1(x.double(), weight.double(), bias.double())
    torch.testing.assert_close(log_det.double(), exact_log_det, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(y.double(), exact, rtol=0.02, atol=0.1)


def test_autocast_does_not_narrow_weights():
    _, weight, bias = layer(12, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        folded, shift = fold_actnorm(weight, bias, bias)
    torch.testing.assert_close(folded, weight * bias.exp())
    torch.testing.assert_close(shift, weight @ bias)


def test_dtypes_are_promoted():
    x, weight, bias = layer(3, 2, 2, dtype=torch.float32)
    y, log_det = invertible_conv1x1(x.double(), weight, bias)
    assert y.dtype == log_det.dtype == torch.float64
    exact = 4 * torch.linalg.slogdet(weight.double())[1]
    torch.testing.assert_close(log_det, exact.expand(2), rtol=1e-13, atol=1e-13)


def test_empty_batches_and_images_keep_their_shapes():
    _, weight, bias = layer(3)
    for shape in ((0, 3), (0, 3, 4, 4), (2, 3, 0, 4)):
        x = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
        for inverted in (False, True):
            y, log_det = invertible_conv1x1(x, weight, bias, inverse=inverted)
            assert y.shape == shape and log_det.shape == shape[:1] and not log_det.any()
            (y.sum() + log_det.sum()).backward()


def test_a_given_log_det_is_used_and_differentiated():
    x, weight, bias = layer(3, 2, 2)
    given = torch.tensor([0.25], dtype=torch.float64, requires_grad=True)
    for inverted, sign in ((False, 1), (True, -1)):
        _, log_det = invertible_conv1x1(x, weight, bias, log_abs_det=given, inverse=inverted)
        assert log_det.tolist() == [sign * 1.0] * 2
        assert torch.autograd.grad(log_det.sum(), given)[0].item() == sign * 8


def test_the_log_det_may_be_accumulated_in_place():
    x, weight, _ = layer(3, 2, 2)
    _, log_det = invertible_conv1x1(x, weight)
    before = log_det.clone()
    log_det += torch.arange(2)
    assert torch.equal(log_det, before + torch.arange(2))


# -- parametrisations ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["scale_then_shift", "shift_then_scale"])
def test_a_folded_normalisation_equals_two_layers(form):
    x, weight, shift = layer(5, 3, 3)
    log_scale = random(5, seed=4)
    column = (slice(None), None, None)
    scale = log_scale.exp()[column]
    normalised = x * scale + shift[column] if form == "scale_then_shift" else (x + shift[column]) * scale
    expected, log_det = invertible_conv1x1(normalised, weight)
    folded, folded_log_det = invertible_conv1x1(x, *fold_actnorm(weight, log_scale, shift, form=form))
    torch.testing.assert_close(folded, expected)
    torch.testing.assert_close(folded_log_det, log_det + 9 * log_scale.sum())
    inputs = [t.requires_grad_() for t in (weight, log_scale, shift)]
    assert gradcheck(lambda *args: fold_actnorm(*args, form=form), inputs)


@pytest.mark.parametrize(
    ("function", "error", "text"),
    [
        (lambda x, w, b: invertible_conv1x1(x, w[:2], b), ValueError, r"weight must be \[C, C\]; got \[2, 3\] \(x is"),
        (lambda x, w, b: invertible_conv1x1(x[0, :, 0, 0], w, b), ValueError, r"x must be \[B, C, \*\]; got \[3\]"),
        (lambda x, w, b: invertible_conv1x1(x, w, b[:2]), ValueError, r"bias must be \[C\]; got \[2\]"),
        (lambda x, w, b: invertible_conv1x1(x.int(), w, b), TypeError, "x must be float32"),
        (lambda x, w, b: invertible_conv1x1(x, w, b, log_abs_det=b), ValueError, "log_abs_det must be one element"),
        (lambda x, w, b: invertible_conv1x1(x, w.to("meta"), b), ValueError, "weight must be on cpu; got meta"),
        (lambda x, w, b: invertible_conv1x1(x, w, b, impl="cuda"), ValueError, "impl must be 'auto' or 'torch'"),
        (lambda x, w, b: log_abs_det([w, w[:2]]), ValueError, r"log_abs_det: weights\[1\] must be a square matrix"),
        (lambda x, w, b: log_abs_det(w[0]), ValueError, r"weights must be \[C, C\] or \[M, C, C\]; got \[3\]"),
        (lambda x, w, b: log_abs_det([w, 3]), TypeError, "weights must be a tensor or a sequence of tensors"),
        (lambda x, w, b: log_abs_det(torch.ones(2, 0, 0)), ValueError, "weights must be a square matrix, not empty"),
        (lambda x, w, b: fold_actnorm(w, b, b, form="other"), ValueError, "form must be one of"),
        (lambda x, w, b: fold_actnorm(w, b[:2], b), ValueError, r"log_scale must be \[C\]; got \[2\]"),
    ],
)
def test_errors_name_the_argument(function, error, text):
    with pytest.raises(error, match=text):
        function(*layer(3, 2, 2))
