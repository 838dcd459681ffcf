"""The product over pixels of the 1x1 convolution: every size, order in memory, dtype and number of threads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from genkern.ops.invertible_conv1x1 import LARGEST, folded_weight, invertible_conv1x1
from genkern.testing import assert_same_bits, assert_within_rule

# Channels around the rows of a tile, pixels around its vectors and strips, pictures that share a strip.
SHAPES = [
    (2, 1, 130), (3, 2, 7, 7), (2, 3, 8, 8), (5, 5, 1), (1, 6, 65), (3, 7, 4, 4), (2, 9, 100), (9, 12, 16, 16),
    (4, 13, 2, 2), (2, 25, 96), (2, 50, 4, 5), (3, 48, 16, 16),
]  # fmt: skip


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def products(x: Tensor, weight: Tensor, bias: Tensor, cotangent: Tensor, impl: str = "auto") -> list[Tensor]:
    """Outputs, and the gradients of everything."""
    leaves = [t.detach().requires_grad_() for t in (x, weight, bias)]
    value = leaves[0].new_zeros((), dtype=torch.promote_types(x.dtype, torch.float32)).requires_grad_()
    y, log_det = invertible_conv1x1(*leaves, log_abs_det=value, impl=impl)
    return [y, log_det, *torch.autograd.grad([y, log_det], [*leaves, value], [cotangent, torch.ones_like(log_det)])]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_size_has_the_values_and_gradients_of_the_definition(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    channels = shape[1]
    given = random(*shape), random(channels, channels, seed=1) / channels**0.5, random(channels, seed=2)
    given = [t.to(dtype) for t in (*given, random(*shape, seed=3))]
    truth = products(*(t.double() for t in given), impl="torch")
    plain = products(*given, impl="torch")
    for i, (found, p, exact) in enumerate(zip(products(*given), plain, truth, strict=True)):
        assert_within_rule(found, p, exact, what=f"number {i}")


@pytest.mark.parametrize("shape", [(70, 6, 8, 8), (3, 5, 70), (40, 3, 5, 5)], ids=str)
def test_bits_do_not_depend_on_the_number_of_threads(shape: tuple[int, ...]) -> None:
    given = random(*shape), random(shape[1], shape[1]), random(shape[1]), random(*shape, seed=3)
    given = [torch.cat([t.float()] * 8) if t.dim() > 2 else t.float() for t in given]
    threads, found = torch.get_num_threads(), []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        found.append(products(*given))
        torch.set_num_threads(threads)
    assert_same_bits(found[0], found[1])
    assert_same_bits(found[0], found[2])


def test_a_picture_alone_gets_the_bits_that_it_gets_in_a_batch() -> None:
    for shape in ((5, 6, 16, 16), (5, 6, 9, 9)):
        x, weight, bias = random(*shape).float(), random(6, 6).float(), random(6).float()
        assert torch.equal(invertible_conv1x1(x, weight, bias)[0][2:3], invertible_conv1x1(x[2:3], weight, bias)[0])


def test_only_the_gradients_that_are_asked_for_are_computed() -> None:
    leaves = [t.requires_grad_() for t in (random(2, 4, 9, 9), random(4, 4, seed=1), random(4, seed=2))]
    y, _ = invertible_conv1x1(*leaves, log_abs_det=torch.zeros(()))
    every = torch.autograd.grad(y.square().sum(), leaves, retain_graph=True)
    for i in range(3):
        (alone,) = torch.autograd.grad(y.square().sum(), leaves[i], retain_graph=True)
        torch.testing.assert_close(alone, every[i])


@pytest.mark.parametrize("channels", [50, LARGEST + 1])
def test_every_order_in_memory_has_the_same_product(channels: int) -> None:
    x, b = random(2, channels, 4, 5).float(), random(channels, seed=1).float()
    weight = random(channels, channels, seed=2).float() / channels**0.5
    for bias in (None, b):
        wanted = invertible_conv1x1(x.double(), weight.double(), bias, log_abs_det=torch.zeros(()), impl="torch")[0]
        last = x.contiguous(memory_format=torch.channels_last)
        for given in (x, last, x.mT.contiguous().mT, x.detach().requires_grad_(), last.detach().requires_grad_()):
            y, _ = invertible_conv1x1(given, weight, bias, log_abs_det=torch.zeros(()))
            assert (y - wanted).abs().max() < 1e-4
    y, _ = invertible_conv1x1(last, weight, log_abs_det=torch.zeros(()))
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_wide_pictures_without_pixels_keep_their_shape() -> None:
    for shape in ((0, LARGEST + 1, 2, 2), (2, LARGEST + 1, 0, 2)):
        x = torch.zeros(shape, requires_grad=True)
        y, _ = invertible_conv1x1(x, torch.eye(shape[1]), log_abs_det=torch.zeros(()))
        y.sum().backward()
        assert y.shape == x.grad.shape == shape


@pytest.mark.parametrize("channels", [50, LARGEST + 1])
def test_wide_pictures_have_the_gradients_of_the_definition(channels: int) -> None:
    weight = torch.linalg.qr(random(channels, channels))[0].float()
    x, bias = random(2, channels, 3, 3).float(), random(channels, seed=1).float()
    cotangent = random(2, channels, 3, 3, seed=2)
    found, exact = [], []
    for dtype, impl, grads in ((torch.float32, "auto", found), (torch.float64, "torch", exact)):
        leaves = [t.to(dtype).requires_grad_() for t in (x, weight, bias)]
        y, log_det = invertible_conv1x1(*leaves, impl=impl)
        first = torch.autograd.grad((y * cotangent.to(dtype)).sum() + log_det.sum(), leaves, create_graph=True)
        grads += [*first, *torch.autograd.grad(sum(g.square().sum() for g in first), leaves, materialize_grads=True)]
    for grad, wanted in zip(found, exact, strict=True):
        torch.testing.assert_close(grad.double(), wanted, rtol=1e-4, atol=1e-3)


def test_weights_by_columns_compile() -> None:
    """As a QR factor lies, whose gradient a graph expects to lie so too."""
    weight = torch.linalg.qr(random(8, 8))[0].float()
    assert weight.stride() == (1, 8)
    inputs = [t.requires_grad_() for t in (random(2, 8, 4, 4).float().mT, weight, random(8, seed=1).float())]

    def total(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        folded = folded_weight(weight, bias, bias)
        y, log_det = invertible_conv1x1(x, *folded[:2], log_abs_det=folded[2])
        return y.sin().sum() + log_det.sum()

    found = torch.autograd.grad(torch.compile(total, fullgraph=True)(*inputs), inputs)
    for grad, wanted in zip(found, torch.autograd.grad(total(*inputs), inputs), strict=True):
        torch.testing.assert_close(grad, wanted, rtol=1e-5, atol=1e-4)
