"""Planar, radial and Sylvester layers beyond what the catalogue checks: conditioning, directions, extremes."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from genkern.nn import Flow, FlowSequential, Inverse, Planar, Radial, Sylvester
from genkern.testing import check_flow


@pytest.mark.parametrize(
    ("kind", "numbers"), [(Planar, 2 * 4 + 1), (Radial, 4 + 2), (partial(Sylvester, units=2), 2 * 4 + 2 * 2 * 2 + 2)]
)
def test_an_encoder_can_give_the_parameters_of_each_sample(kind: Callable[..., Flow], numbers: int) -> None:
    torch.manual_seed(0)
    layer = kind(4, conditioner=nn.Linear(3, numbers))
    check_flow(layer, (4,), context=torch.randn(3, 3), second_order=False)
    with pytest.raises(ValueError, match=f"{type(layer).__name__}: context must be given"):
        layer(torch.randn(2, 4))


def test_a_sylvester_layer_of_given_parameters_is_that_layer() -> None:
    torch.manual_seed(0)
    plain = Sylvester(5, 3, reflections=2).double()
    given = torch.cat([p.flatten() for p in plain.parameters()])
    conditioner = nn.Linear(2, len(given)).double()
    with torch.no_grad():
        conditioner.weight.zero_(), conditioner.bias.copy_(given)
    layer = Sylvester(5, 3, reflections=2, conditioner=conditioner)
    x, context = torch.randn(4, 5, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)
    for found, wanted in zip(layer(x, context), plain(x), strict=True):
        assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    for found, wanted in zip(layer.inverse(x, context), plain.inverse(x), strict=True):
        assert_close(found, wanted, rtol=1e-10, atol=1e-10)


def test_a_layer_begins_near_the_identity() -> None:
    torch.manual_seed(0)
    x = torch.randn(100, 8)
    for layer in (Planar(8), Radial(8), Sylvester(8, 4)):
        z, log_det = layer(x)
        assert (z - x).norm(dim=1).mean() < 0.5 * x.norm(dim=1).mean() and log_det.abs().mean() < 1


def test_pictures_are_flows_of_their_elements() -> None:
    x = torch.randn(3, 2, 4, 4).contiguous(memory_format=torch.channels_last)
    flow = FlowSequential(Planar(32), Radial(32), Sylvester(32, 5), Inverse(Planar(32)))
    z, log_det = flow(x)
    assert z.shape == x.shape and log_det.shape == (3,)
    assert_close(flow.inverse(z)[0], x, rtol=0, atol=1e-4)


@pytest.mark.parametrize("units", [1, 5])
def test_the_directions_of_a_sylvester_layer_are_orthonormal_and_one_makes_it_planar(units: int) -> None:
    torch.manual_seed(0)
    layer = Sylvester(5, units).double()
    q, r, r_tilde, _ = layer._matrices(*layer.parameters_for(None))
    assert_close(q.T @ q, torch.eye(units, dtype=torch.float64))
    if units == 1:
        from genkern.ops import planar

        w, u_hat = r_tilde[0, 0] * q[:, 0], r[0, 0] * q[:, 0]
        x = torch.randn(7, 5, dtype=torch.float64)
        # the raw u that gives this u': softplus(w.u) = 1 + w.u'
        raw = torch.log(torch.expm1(1 + w @ u_hat))
        u = u_hat + (raw - w @ u_hat) * w / w.square().sum()
        assert_close(layer(x), planar(x, u, w, layer.bias[0]))


@pytest.mark.parametrize("raw", [-100.0, 100.0])
def test_a_sylvester_layer_with_extreme_parameters_stays_finite_and_invertible(raw: float) -> None:
    layer = Sylvester(4, 4).double()
    with torch.no_grad():
        layer.outer.diagonal().fill_(raw), layer.inner.diagonal().fill_(-raw)
    x = torch.randn(9, 4, dtype=torch.float64, requires_grad=True)
    z, log_det = layer(x)
    grads = torch.autograd.grad(z.sum() + log_det.sum(), [x, *layer.parameters()])
    assert all(t.isfinite().all() for t in (z, log_det, *grads))
    assert_close(layer.inverse(z)[0], x, rtol=1e-8, atol=1e-8)


def test_wrong_options_say_what_is_right() -> None:
    with pytest.raises(ValueError, match="Sylvester: units must be between 1 and features = 4; got 5"):
        Sylvester(4, 5)
