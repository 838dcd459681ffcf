"""Emerging and periodic convolutions: exact on any picture, well conditioned from the start, and inverted in whole."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.testing import assert_close

from genkern.nn import AutoregressiveConv2d, EmergingConv2d, Flow, FlowSequential, Inverse, PeriodicConv2d
from genkern.testing import jacobian_log_det

LAYERS = {
    "raster": lambda channels: AutoregressiveConv2d(channels, 3, mask="raster"),
    "raster reverse": lambda channels: AutoregressiveConv2d(channels, 5, mask="raster", reverse=True),
    "square": lambda channels: AutoregressiveConv2d(channels, 5),
    "square reverse": lambda channels: AutoregressiveConv2d(channels, 3, reverse=True),
    "emerging": lambda channels: EmergingConv2d(channels, 3),
    "emerging raster": lambda channels: EmergingConv2d(channels, 5, mask="raster", parameterization="free"),
    "periodic": lambda channels: PeriodicConv2d(channels, 3),
    "periodic wide": lambda channels: PeriodicConv2d(channels, 7),
}
SHAPES = [(3, 5, 4), (2, 1, 7), (4, 6, 1), (1, 3, 3), (5, 2, 2), (3, 4, 5)]


def made(name: str, channels: int, dtype: torch.dtype = torch.float64) -> Flow:
    """A layer whose diagonals are not 1."""
    torch.manual_seed(len(name) + channels)
    layer = LAYERS[name](channels)
    with torch.no_grad():
        for part in layer.modules():
            if isinstance(part, AutoregressiveConv2d):
                part.log_diagonal.normal_(std=0.3)
    return layer.to(dtype)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", LAYERS)
def test_log_det_is_that_of_the_jacobian_on_any_picture(name: str, shape: tuple[int, ...]) -> None:
    layer, x = made(name, shape[0]), torch.randn(2, *shape, dtype=torch.float64)
    truth = jacobian_log_det(lambda sample: layer(sample)[0], x)
    assert_close(layer(x)[1], truth, rtol=0, atol=1e-9)
    assert_close(layer.float()(x.float())[1].double(), truth, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("shape", [*SHAPES, (12, 16, 16), (48, 8, 8)])
@pytest.mark.parametrize("name", LAYERS)
def test_inverse_undoes_forward_on_any_picture(name: str, shape: tuple[int, ...], dtype, tolerance: float) -> None:
    layer, x = made(name, shape[0], dtype), torch.randn(2, *shape, dtype=torch.float64).to(dtype)
    z, log_det = layer(x)
    back, inverse_log_det = layer.inverse(z)
    assert (back - x).abs().max() <= tolerance
    assert_close(inverse_log_det, -log_det, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["emerging", "emerging raster", "periodic"])
def test_gradients_through_the_inverse_are_those_of_finite_differences(name: str) -> None:
    layer, z = made(name, 2), torch.randn(2, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    parameters = dict(layer.named_parameters())

    backwards, names = Inverse(layer), [f"flow.{name}" for name in parameters]

    def inverse(z: Tensor, *values: Tensor) -> tuple[Tensor, Tensor]:
        return torch.func.functional_call(backwards, dict(zip(names, values, strict=True)), (z,))

    assert gradcheck(inverse, (z, *parameters.values()))


def test_the_inverse_subtracts_the_log_det_of_the_1x1_convolution_once() -> None:
    """The authors' code does so twice when it samples."""
    layer, x = made("emerging", 4), torch.randn(2, 4, 3, 5, dtype=torch.float64)
    layer[0].log_diagonal.data += 0.7  # |det P| is far from 1
    z, log_det = layer(x)
    parts = [layer[0].log_diagonal.sum(), *(layer[i].kernel()[1].sum() for i in (1, 2))]
    assert_close(log_det, 15 * sum(parts).expand(2))
    assert abs(15 * parts[0].item()) > 10
    assert_close(layer.inverse(z)[1], -log_det)


@pytest.mark.parametrize("mask", ["square", "raster"])
def test_a_pixel_sees_the_whole_window_of_an_ordinary_convolution(mask: str) -> None:
    torch.manual_seed(0)
    layer = EmergingConv2d(2, 3, mask=mask).double()
    jacobian = torch.autograd.functional.jacobian(lambda x: layer(x)[0], torch.randn(1, 2, 9, 9, dtype=torch.float64))
    seen = jacobian[0, :, 4, 4, 0].abs().amin((0, 1)) > 1e-6  # of every channel by every channel, [H, W]
    assert seen[3:6, 3:6].all()
    assert seen.sum() == (9 if mask == "square" else 13)


@pytest.mark.parametrize("value", [100.0, -100.0])
def test_extreme_diagonals_stay_finite_both_ways(value: float) -> None:
    torch.manual_seed(0)
    layer, x = AutoregressiveConv2d(3), torch.randn(2, 3, 6, 5, requires_grad=True)
    layer.log_diagonal.data.fill_(value)
    for outputs in (layer(x), layer.inverse(x)):
        grads = torch.autograd.grad(outputs[0].sum() + outputs[1].sum(), (x, *layer.parameters()))
        assert all(tensor.isfinite().all() for tensor in (*outputs, *grads))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("channels", [4, 96])
def test_a_new_layer_amplifies_little_in_either_direction(name: str, channels: int) -> None:
    torch.manual_seed(0)
    layer, x = LAYERS[name](channels), torch.randn(1, channels, 12, 12)
    for z in (layer(x)[0], layer.inverse(x)[0]):
        assert 0.5 < z.norm() / x.norm() < 2


def test_a_periodic_convolution_is_its_matrices_at_all_frequencies() -> None:
    layer = made("periodic", 3)
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    waves = torch.fft.rfft2(x)  # [B, C, H, W/2 + 1]
    mixed = torch.einsum("uvoi,biuv->bouv", layer.spectrum(4, 5), waves)
    assert_close(layer(x)[0], torch.fft.irfft2(mixed, s=(4, 5)), rtol=0, atol=1e-13)


@pytest.mark.parametrize("size", [(4, 4), (4, 5), (5, 4), (1, 6), (3, 1), (2, 2)])
def test_half_of_the_frequencies_count_for_all(size: tuple[int, int]) -> None:
    layer = made("periodic", 3)
    whole = torch.zeros(3, 3, *size, dtype=torch.complex128)
    for a in range(3):
        for b in range(3):
            whole[:, :, (1 - a) % size[0], (1 - b) % size[1]] += layer.weight.detach()[:, :, a, b]
    every = torch.linalg.slogdet(torch.fft.fft2(whole).permute(2, 3, 0, 1)).logabsdet
    assert_close(layer.log_abs_det(*size).detach(), every.sum(), rtol=0, atol=1e-12)


def test_periodic_patterns_move_with_the_picture() -> None:
    layer, x = made("periodic", 2), torch.randn(1, 2, 5, 6, dtype=torch.float64)
    assert_close(layer(x.roll((2, 3), (2, 3)))[0], layer(x)[0].roll((2, 3), (2, 3)))


@pytest.mark.parametrize("name", ["emerging", "periodic"])
def test_half_precision_and_autocast_invert_in_float32(name: str) -> None:
    layer, x = made(name, 4, torch.float32), torch.randn(2, 4, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        z, log_det = layer(x)
        back, _ = layer.inverse(z)
    assert z.dtype == log_det.dtype == torch.float32
    assert (back - x).abs().max() <= 1e-5
    half = layer.bfloat16()
    z, log_det = half(x.bfloat16())
    back, back_log_det = half.inverse(z)
    assert z.dtype == back.dtype == torch.bfloat16 and log_det.dtype == back_log_det.dtype == torch.float32
    assert (back.float() - x).abs().max() <= 0.1


def test_a_flow_gathers_the_matrices_of_its_emerging_convolutions() -> None:
    flow = FlowSequential(
        EmergingConv2d(4, parameterization="free"), EmergingConv2d(4), EmergingConv2d(4, actnorm=True)
    )
    assert len(flow.matrices()) == 3 and len(flow.free_weights()) == 1
    x = torch.randn(3, 4, 5, 5)
    assert_close(flow.inverse(flow(x)[0])[0], x, rtol=0, atol=1e-4)


@pytest.mark.parametrize("layer", [AutoregressiveConv2d, PeriodicConv2d])
def test_an_even_kernel_is_refused(layer) -> None:
    with pytest.raises(ValueError, match=f"{layer.__name__}: kernel_size must be odd and positive; got 4"):
        layer(3, 4)
    with pytest.raises(ValueError, match="mask must be 'square' or 'raster'; got 'round'"):
        EmergingConv2d(3, mask="round")
