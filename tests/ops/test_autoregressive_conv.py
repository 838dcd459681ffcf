"""The autoregressive convolution is a triangular map of pixels and channels; its inverse solves that triangle."""

from __future__ import annotations

import math
from functools import partial
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from genkern.ops import autoregressive_conv
from genkern.ops.autoregressive_conv import live_taps
from genkern.ops.autoregressive_conv.autograd import TAPS
from genkern.testing import Case, OpSuite, assert_same_bits, assert_within_rule, jacobian_log_det

ORDERS = list(product(("raster", "square"), (False, True)))
SHAPES = [
    ((2, 3, 4, 5), (3, 3)),
    ((1, 2, 1, 9), (3, 5)),
    ((3, 5, 7, 1), (5, 3)),
    ((2, 1, 3, 3), (1, 1)),
    ((1, 4, 2, 3), (7, 7)),
]


def drawn(shape: tuple[int, ...], kernel: tuple[int, int], dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """An input and a well-conditioned weight whose diagonal has both signs and values that are not 1."""
    generator = torch.Generator().manual_seed(sum(shape) + kernel[0])
    channels = shape[1]
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    weight = torch.randn(channels, channels, *kernel, generator=generator, dtype=torch.float64)
    return x.to(dtype), conditioned(weight).to(dtype)


def conditioned(weight: Tensor) -> Tensor:
    channels, _, rows, columns = weight.shape
    signs = torch.tensor([1.3, -0.8]).to(weight).repeat(channels)[:channels]
    centre = torch.zeros(rows, columns, dtype=weight.dtype, device=weight.device)
    centre[rows // 2, columns // 2] = 1
    return 0.3 / channels * weight + torch.diag(signs)[..., None, None] * centre


def convolved(x: Tensor, weight: Tensor, impl: str, **options) -> tuple[Tensor, Tensor]:
    return autoregressive_conv(x, conditioned(weight), impl=impl, **options)


def known_diagonal(x: Tensor, weight: Tensor, log_diagonal: Tensor, impl: str, **options) -> tuple[Tensor, Tensor]:
    return autoregressive_conv(x, conditioned(weight), log_diagonal=log_diagonal, impl=impl, **options)


class TestAutoregressiveConv(OpSuite):
    cases = [
        Case("inverse", convolved, {"x": (3, 3, 3, 4), "weight": (3, 3, 3, 3)}, {"inverse": True}, batched=False),
        Case(
            "inverse-square-reverse",
            known_diagonal,
            {"x": (2, 5, 2, 7), "weight": (5, 5, 3, 5), "log_diagonal": (5,)},
            {"inverse": True, "mask": "square", "reverse": True},
            batched=False,
        ),
    ]


class TestForward(OpSuite):
    cases = [Case("reverse", convolved, {"x": (3, 3, 3, 4), "weight": (3, 3, 3, 3)}, {"reverse": True}, batched=False)]

    def test_runs_are_deterministic(self, case: Case, device: str) -> None:
        """Of a convolution's weight gradient PyTorch promises the same bits for the same number of threads only."""
        inputs = case.inputs(torch.float32, device)
        assert_same_bits(case(*inputs), case(*inputs))
        assert_same_bits(case.gradients(inputs), case.gradients(inputs))


# -- the map ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mask", "reverse"), ORDERS)
def test_the_jacobian_is_triangular_in_the_order_of_pixels_and_channels(mask, reverse):
    x, weight = drawn((1, 3, 4, 3), (5, 3))
    function = partial(autoregressive_conv, weight=weight, mask=mask, reverse=reverse)
    jacobian = torch.autograd.functional.jacobian(lambda x: function(x)[0], x)[0, :, :, :, 0]  # [C, H, W, C, H, W]
    matrix = jacobian.permute(1, 2, 0, 4, 5, 3).reshape(36, 36)
    beyond = matrix.tril(-1) if reverse else matrix.triu(1)
    assert beyond.eq(0).all() and matrix.diagonal().ne(0).all()


@pytest.mark.parametrize(("mask", "reverse"), ORDERS)
@pytest.mark.parametrize(("shape", "kernel"), SHAPES)
def test_log_det_is_that_of_the_jacobian(shape, kernel, mask, reverse):
    x, weight = drawn(shape, kernel)
    expected = jacobian_log_det(lambda x: autoregressive_conv(x, weight, mask=mask, reverse=reverse)[0], x)
    assert (autoregressive_conv(x, weight, mask=mask, reverse=reverse)[1] - expected).abs().max() <= 1e-9
    _, single = autoregressive_conv(x.float(), weight.float(), mask=mask, reverse=reverse)
    assert (single - expected).abs().max() <= 1e-4


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize(("mask", "reverse"), ORDERS)
@pytest.mark.parametrize(("shape", "kernel"), [*SHAPES, ((2, 12, 16, 16), (3, 3)), ((1, 33, 5, 6), (3, 3))])
def test_inverse_undoes_forward(shape, kernel, mask, reverse, dtype, tolerance):
    x, weight = drawn(shape, kernel, dtype)
    y, log_det = autoregressive_conv(x, weight, mask=mask, reverse=reverse)
    for impl in ("auto", "torch"):
        back, log_det_back = autoregressive_conv(y, weight, mask=mask, reverse=reverse, inverse=True, impl=impl)
        assert (back - x).abs().max() <= tolerance
        if impl == "auto":
            assert torch.equal(log_det_back, -log_det)
        torch.testing.assert_close(log_det_back, -log_det)


@pytest.mark.parametrize(("mask", "reverse"), ORDERS)
def test_the_solution_is_that_of_the_dense_matrix(mask, reverse):
    y, weight = drawn((2, 3, 4, 5), (3, 5))
    basis = torch.eye(60, dtype=torch.float64).view(60, 3, 4, 5)
    matrix = autoregressive_conv(basis, weight, mask=mask, reverse=reverse)[0].flatten(1).T
    expected = torch.linalg.solve(matrix, y.flatten(1).T).T.view_as(y)
    for impl in ("auto", "torch"):
        found, _ = autoregressive_conv(y, weight, mask=mask, reverse=reverse, inverse=True, impl=impl)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mask", ["raster", "square"])
def test_the_opposite_order_is_the_same_map_from_the_other_end(mask):
    x, weight = drawn((2, 3, 4, 5), (3, 5))
    for inverse in (False, True):
        there, _ = autoregressive_conv(x, weight, mask=mask, reverse=True, inverse=inverse)
        flipped = autoregressive_conv(x.flip(1, 2, 3), weight.flip(0, 1, 2, 3), mask=mask, inverse=inverse)[0]
        torch.testing.assert_close(there, flipped.flip(1, 2, 3), rtol=0, atol=1e-14)


@pytest.mark.parametrize(("mask", "reverse"), ORDERS)
def test_what_the_mask_excludes_is_never_read(mask, reverse):
    x, weight = drawn((2, 4, 5, 3), (3, 3))
    live = live_taps(torch.ones_like(weight), mask == "square", reverse).bool()
    poisoned = torch.where(live, weight, torch.nan)
    for inverse in (False, True):
        options = {"mask": mask, "reverse": reverse, "inverse": inverse}
        assert_same_bits(autoregressive_conv(x, poisoned, **options), autoregressive_conv(x, weight, **options))
    assert live[:, :, 1, 1].sum() == 10 and live.sum() == 10 + 16 * (4 if mask == "raster" else 3)


# -- derivatives through the inverse -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("mask", "reverse"), ORDERS)
def test_derivatives_through_the_inverse_are_those_of_finite_differences(mask, reverse):
    y, weight = drawn((2, 2, 2, 3), (3, 3))

    def function(y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        return autoregressive_conv(y, weight, mask=mask, reverse=reverse, inverse=True)

    inputs = (y.requires_grad_(), weight.requires_grad_())
    assert gradcheck(function, inputs, check_forward_ad=True)
    assert gradgradcheck(function, inputs)


def test_the_gradient_in_the_input_alone_is_one_more_solve(monkeypatch):
    from genkern.ops.autoregressive_conv import autograd

    calls = []
    real = autograd.OP.__class__.__call__
    monkeypatch.setattr(
        autograd.OP.__class__, "__call__", lambda self, *a, **k: calls.append(self.name) or real(self, *a, **k)
    )
    monkeypatch.setattr(autograd, "_weight_gradient", None)
    y, weight = drawn((2, 3, 4, 5), (3, 3))
    x, _ = autoregressive_conv(y.requires_grad_(), weight, inverse=True)
    x.sum().backward()
    assert [name for name in calls if name == "autoregressive_solve"] == ["autoregressive_solve"] * 2


# -- numbers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "kernel"), [((5, 12, 32, 32), (3, 3)), ((1, 48, 40, 32), (3, 3)), ((2, 7, 19, 23), (5, 5))]
)
@pytest.mark.parametrize("mask", ["raster", "square"])
def test_threads_that_share_a_sample_change_no_bit(shape, kernel, mask):
    y, weight = drawn(shape, kernel, torch.float32)
    before, found = torch.get_num_threads(), []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        found.append(autoregressive_conv(y, weight, mask=mask, inverse=True)[0])
    torch.set_num_threads(before)
    assert_same_bits(found[0], found[1])
    assert_same_bits(found[0], found[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_solution_is_as_exact_as_the_references_where_the_triangle_is_nearly_singular(dtype):
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(2, 12, 6, 6, generator=generator, dtype=torch.float64).to(dtype)
    weight = 0.3 * torch.randn(12, 12, 3, 3, generator=generator, dtype=torch.float64)
    weight[:, :, 1, 1] += torch.diag(torch.linspace(0.05, 2, 12, dtype=torch.float64))
    weight = weight.to(dtype)
    truth, plain, kernel = (
        autoregressive_conv(a, b, inverse=True, impl=impl)[0]
        for a, b, impl in [(y.double(), weight.double(), "torch"), (y, weight, "torch"), (y, weight, "auto")]
    )
    assert_within_rule(kernel, plain, truth)


def test_parameters_of_100_give_finite_values_and_gradients():
    x, _ = drawn((2, 3, 5, 4), (3, 3), torch.float32)
    x = (100 * x).requires_grad_()
    weight = torch.tensor([100.0, -100.0]).repeat(41)[:81].reshape(3, 3, 3, 3).requires_grad_()
    y, log_det = autoregressive_conv(x, weight)
    grads = torch.autograd.grad(y.sum() + log_det.sum(), (x, weight))
    assert all(tensor.isfinite().all() for tensor in (y, log_det, *grads))
    back, log_det = autoregressive_conv(x[:, :, :2, :2], weight, inverse=True)
    grads = torch.autograd.grad(back.sum() + log_det.sum(), (x, weight))
    assert all(tensor.isfinite().all() for tensor in (back, log_det, *grads))


def test_log_det_neither_overflows_nor_underflows():
    for scale in (1e-30, 1e30):
        weight = scale * torch.eye(48)[:, :, None, None]
        _, log_det = autoregressive_conv(torch.zeros(1, 48, 32, 32), weight)
        assert math.isclose(log_det.item(), 48 * 1024 * math.log(scale), rel_tol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_log_det_and_arithmetic_of_half_precision_are_float32(dtype):
    x, weight = drawn((2, 6, 8, 8), (3, 3), dtype)
    y, log_det = autoregressive_conv(x, weight, inverse=True)
    wide, expected = autoregressive_conv(x.float(), weight.float(), inverse=True)
    assert y.dtype == dtype and log_det.dtype == torch.float32
    assert torch.equal(log_det, expected) and torch.equal(y, wide.to(dtype))


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "weight", "options", "text"),
    [
        (
            (2, 3, 4, 4),
            (3, 2, 3, 3),
            {},
            r"weight must be \[C, C, k_h, k_w\] .* got \[3, 2, 3, 3\] \(x is \[2, 3, 4, 4\]\)",
        ),
        ((2, 3, 4, 4), (3, 3, 2, 3), {}, "weight must be .* with odd k_h and k_w"),
        ((2, 3, 4), (3, 3, 3, 3), {}, r"x must be \[B, C, H, W\]; got \[2, 3, 4\]"),
        ((2, 3, 4, 4), (3, 3, 3, 3), {"mask": "hexagon"}, "mask must be one of .*got 'hexagon'"),
        ((2, 3, 4, 4), (3, 3, 3, 3), {"log_diagonal": torch.zeros(2)}, r"log_diagonal must be \[C\]; got \[2\]"),
        ((2, 3, 4, 4), (3, 3, 3, 3), {"impl": "fast"}, "impl must be"),
        ((2, 3, 4, 4), (3, 3, 3, 3), {"inverse": True}, "weight must be invertible; got a zero on .* channel 0"),
    ],
)
def test_errors_name_the_argument(x, weight, options, text):
    with pytest.raises(ValueError, match=f"autoregressive_conv: {text}"):
        autoregressive_conv(torch.zeros(x), torch.zeros(weight), **options)


def test_wrong_dtypes_are_refused():
    with pytest.raises(TypeError, match="autoregressive_conv: weight must be float32.*got torch.int64"):
        autoregressive_conv(torch.zeros(2, 3, 4, 4), torch.zeros(3, 3, 3, 3, dtype=torch.int64))


def test_a_singular_weight_has_a_gradient_where_its_log_det_is_not_asked_for():
    x, weight = torch.randn(2, 3, 4, 4), torch.zeros(3, 3, 3, 3, requires_grad=True)
    (grad,) = torch.autograd.grad(autoregressive_conv(x, weight)[0].square().sum(), weight)
    assert grad.isfinite().all()


@pytest.mark.parametrize(("mask", "reverse"), ORDERS)
@pytest.mark.parametrize("kernel", [(1, 1), (3, 5), (5, 3)])
def test_the_live_taps_and_their_gradients_are_those_of_the_definition(kernel, mask, reverse):
    weight = torch.randn(4, 4, *kernel, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = []
    for impl in ("auto", "torch"):
        leaf = weight.clone().requires_grad_()
        taps, total = TAPS(leaf, mask == "square", reverse, impl=impl)
        found.append((taps, total, *torch.autograd.grad((taps * weight.cos()).sum() + 3 * total, leaf)))
    torch.testing.assert_close(found[0], found[1])
    assert torch.equal(found[0][0], found[1][0])


def test_a_singular_weight_has_log_det_minus_infinity():
    _, log_det = autoregressive_conv(torch.zeros(2, 3, 4, 4), torch.zeros(3, 3, 3, 3))
    assert log_det.eq(-torch.inf).all()
