"""Spline layers: what is special about each; what every flow layer must do, the catalogue's tests check."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from genkern.nn import (
    MADE,
    ElementwiseSpline,
    FlowSequential,
    MaskedAutoregressive,
    SplineCoupling,
    SplineTransform,
    checkerboard,
)
from genkern.ops import rational_quadratic_spline
from genkern.testing import check_flow


def test_a_coupling_by_a_mask_is_a_flow() -> None:
    check_flow(SplineCoupling(nn.Conv2d(2, 2 * 8, 1), bins=3, mask=checkerboard(2, 2, 4)), (2, 2, 4))


def test_circular_splines_of_the_first_channels_are_a_flow() -> None:
    network = nn.Linear(2, 3 * 12)
    check_flow(SplineCoupling(network, bins=4, tails="circular", bound=4.0, flip=True, transformed=3), (5,))


def test_splines_in_an_autoregressive_flow_are_a_flow() -> None:
    network = MADE(4, 12, outputs=SplineTransform(3).parameters, activation="tanh")
    check_flow(MaskedAutoregressive(network, SplineTransform(3)), (4,))


@pytest.mark.parametrize("tails", ["linear", "circular", None])
def test_an_elementwise_spline_starts_as_the_identity_and_gives_each_position_its_own(tails: str | None) -> None:
    layer, x = ElementwiseSpline((2, 3), bins=4, tails=tails), 2 * torch.rand(5, 2, 3) - 1
    z, log_det = layer(x)
    assert_close(z, x, rtol=0, atol=1e-6)
    assert_close(log_det, torch.zeros(5), rtol=0, atol=1e-5)
    with torch.no_grad():
        layer.raw[0, 4] = 1.0  # a width of position [1, 1]
    moved = layer(x)[0] != z
    assert moved[:, 1, 1].all() and moved.sum() == 5


def test_a_transform_takes_what_the_operation_takes_with_parameters_first() -> None:
    transform = SplineTransform(5, 2.0, tails="circular")
    x, params = torch.randn(4, 3), torch.randn(4, transform.parameters * 3)
    expected = rational_quadratic_spline(x, params, bins=5, bound=2.0, tails="circular")
    assert all(torch.equal(a, b) for a, b in zip(transform(x, params), expected, strict=True))
    one = params.unflatten(1, (15, 3))[:, :, 1]
    assert torch.equal(transform(x[:, 1:2], one)[0], expected[0][:, 1:2])


def test_deep_stacks_come_back_in_float32() -> None:
    torch.manual_seed(0)
    layers = [SplineCoupling(nn.Linear(2, 2 * 23), flip=i % 2 == 1) for i in range(16)]
    flow, x = FlowSequential(*layers), torch.randn(500, 4)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter *= 0.3
    assert flow.reconstruction_error(x) < 1e-4
    assert flow.double().reconstruction_error(x.double()) < 1e-12


def test_a_shape_that_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match=r"ElementwiseSpline: x must be \['B', 2, 3\]; got \[5, 6\]"):
        ElementwiseSpline((2, 3))(torch.zeros(5, 6))
