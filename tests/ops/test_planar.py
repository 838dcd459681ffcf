import pytest
import torch

from genkern.ops import planar
from genkern.testing import Case, OpSuite, assert_within_rule, jacobian_log_det

EACH = {"x": (33, 6), "u": (33, 6), "w": (33, 6), "b": (33,)}
SHARED = {"x": (70, 3), "u": (3,), "w": (3,), "b": ()}
WIDE = {"x": (9, 40), "u": (40,), "w": (40,), "b": ()}
PICTURES = {"x": (3, 2, 3, 4), "u": (24,), "w": (3, 24), "b": ()}


class TestPlanar(OpSuite):
    cases = [
        Case("each-sample", planar, EACH),
        Case("each-sample-inverse", planar, EACH, {"inverse": True}),
        Case("shared", planar, SHARED, batched=False),
        Case("shared-inverse-wide", planar, WIDE, {"inverse": True}, 0.4, batched=False),
        Case("pictures", planar, PICTURES, scale=0.5, batched=False),
    ]


def parameters(size, scale=1.0, dtype=torch.float64, seed=0, batch=()):
    generator = torch.Generator().manual_seed(seed)
    u, w = (scale * torch.randn(*batch, size, generator=generator, dtype=torch.float64) for _ in range(2))
    return u.to(dtype), w.to(dtype), torch.randn(batch, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("scale", [0.3, 1.0, 2.0])
def test_log_det_is_that_of_the_jacobian(scale, inverse):
    x, given = torch.randn(4, 5, dtype=torch.float64), parameters(5, scale)
    expected = jacobian_log_det(lambda x: planar(x, *given, inverse=inverse)[0], x)
    _, log_det = planar(x, *given, inverse=inverse)
    torch.testing.assert_close(log_det, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_inverse_undoes_forward_as_far_as_the_slope_allows(size, dtype, tolerance):
    generator = torch.Generator().manual_seed(size)
    x = torch.randn(300, size, generator=generator, dtype=torch.float64).to(dtype)
    given = parameters(size, 1.0, dtype, batch=(300,))
    y, log_det = planar(x, *given)
    back, log_det_back = planar(y, *given, inverse=True)
    # an error of one rounding in w.y is divided by the slope, which is e^log_det
    reach = (1 + y.abs().amax(1) + given[0].norm(dim=1)) * (1 + 1 / log_det.exp()) * (1 + given[1].norm(dim=1))
    assert ((back - x).abs().amax(1) <= tolerance * reach).all()
    assert ((log_det + log_det_back).abs() <= tolerance * reach * (1 + given[1].norm(dim=1)) / log_det.exp()).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_root_is_right_to_the_last_bits_over_all_scales(dtype):
    """One dimension, w = 1: x + m tanh x = y for every slope from 1e-12 to 1e6 and every y from 1e-9 to 1e6."""
    s = torch.logspace(-12, 6, 60, dtype=torch.float64)
    u = s + torch.log(-torch.expm1(-s))  # softplus(u) = s
    y = torch.cat([-torch.logspace(-9, 6, 60, dtype=torch.float64), torch.linspace(0, 20, 60, dtype=torch.float64)])
    y, u = (t.flatten().to(dtype) for t in torch.meshgrid(y, u, indexing="ij"))
    x, _ = planar(y[:, None], u[:, None], torch.ones_like(u)[:, None], torch.zeros_like(u), inverse=True)
    v, s = x[:, 0].double(), torch.nn.functional.softplus(u.double(), threshold=50)
    residual = (v - v.tanh()) + s * v.tanh() - y.double()
    scale = (y.double().abs() + v.abs()) * (1 + s)  # x is rounded beside y, and moves y by 1 + s times as much
    assert (residual.abs() <= 16 * torch.finfo(dtype).eps * scale).all()


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("raw", [-100.0, 0.0, 1e-30, 100.0])
def test_extreme_parameters_give_finite_values_and_gradients(raw, inverse):
    for other in (-100.0, 0.0, 1e-4, 100.0):
        x = torch.tensor([[0.0, 0.0, 0.0], [30.0, -30.0, 1.0]], requires_grad=True)
        u, w = torch.full((2, 3), raw, requires_grad=True), torch.full((2, 3), other, requires_grad=True)
        b = torch.tensor([0.0, 1.0], requires_grad=True)
        y, log_det = planar(x, u, w, b, inverse=inverse)
        grads = torch.autograd.grad(y.sum() + log_det.sum(), (x, u, w, b))
        assert all(tensor.isfinite().all() for tensor in (y, log_det, *grads)), other


def test_a_large_projection_keeps_its_digits():
    """ln(1 + e^200) is 200: written as log(1 + exp(.)) it is infinite in float32."""
    x, w = torch.tensor([[0.5, 0.2]]), torch.tensor([10.0, 10.0])
    y, log_det = planar(x, torch.tensor([10.0, 10.0]), w, torch.tensor(-7.0))
    truth = [
        t.double() for t in planar(x.double(), torch.full((2,), 10.0).double(), w.double(), torch.tensor(-7.0).double())
    ]
    torch.testing.assert_close((y.double(), log_det.double()), tuple(truth), rtol=1e-6, atol=1e-6)  # fmt: skip


def test_the_log_det_does_not_cancel_near_a_fold():
    """softplus(w.u) = e^-12: 1 + (1 - tanh^2) w.u' is a difference of nearly equal numbers, here it is a sum."""
    x, u, w = torch.linspace(-2, 2, 41)[:, None] * 1e-3, torch.tensor([-12.0]), torch.tensor([1.0])
    b = torch.tensor(0.0)
    truth = planar(x.double(), u.double(), w.double(), b.double(), impl="torch")[1]
    assert_within_rule(planar(x, u, w, b)[1], planar(x, u, w, b, impl="torch")[1], truth)
    assert (planar(x, u, w, b)[1].double() - truth).abs().max() < 1e-5


def test_the_density_of_a_planar_flow_integrates_to_one():
    grid = torch.linspace(-8, 8, 401, dtype=torch.float64)
    x = torch.stack(torch.meshgrid(grid, grid, indexing="ij"), -1).flatten(0, 1)
    u, w, b = torch.tensor([1.0, -2.0]).double(), torch.tensor([1.5, 0.5]).double(), torch.tensor(0.3).double()
    for inverse in (False, True):
        z, log_det = planar(x, u, w, b, inverse=inverse)
        density = (log_det - 0.5 * z.square().sum(1)).exp() / (2 * torch.pi)
        assert abs(density.sum() * (grid[1] - grid[0]) ** 2 - 1) < 1e-3


def test_shared_parameters_are_those_of_every_sample():
    x, (u, w, b) = torch.randn(1100, 5, dtype=torch.float64), parameters(5)
    leaves = [t.requires_grad_() for t in (u, w, b)]
    spread = [t.detach().expand(1100, *t.shape).clone().requires_grad_() for t in leaves]
    for inverse in (False, True):
        y, log_det = planar(x, *leaves, inverse=inverse)
        y_each, log_det_each = planar(x, *spread, inverse=inverse)
        torch.testing.assert_close((y, log_det), (y_each, log_det_each), rtol=1e-12, atol=1e-12)
        grads = torch.autograd.grad(y.square().sum() + log_det.sum(), leaves)
        grads_each = torch.autograd.grad(y_each.square().sum() + log_det_each.sum(), spread)
        for grad, each in zip(grads, grads_each, strict=True):
            torch.testing.assert_close(grad, each.sum(0))


def test_no_samples_and_shared_parameters_work():
    u, w, b = (t.requires_grad_() for t in parameters(3, dtype=torch.float32))
    y, log_det = planar(torch.zeros(0, 3), u, w, b)
    grads = torch.autograd.grad(y.sum() + log_det.sum(), (u, w, b))
    assert y.shape == (0, 3) and log_det.shape == (0,) and all(grad.eq(0).all() for grad in grads)


@pytest.mark.parametrize(
    ("shapes", "text"),
    [
        (((3,), (3,), (3,), ()), "x must be"),
        (((4, 3), (2,), (3,), ()), "u must be .D. or .B, D.; got .2. .x is .4, 3.."),
        (((4, 3), (3,), (5, 3), ()), "w must be"),
        (((4, 3), (3,), (3,), (1,)), "b must be"),
    ],
)
def test_errors_name_the_argument(shapes, text):
    with pytest.raises(ValueError, match=f"planar: {text}"):
        planar(*(torch.zeros(shape) for shape in shapes))
    with pytest.raises(TypeError, match="planar: w must be float32"):
        planar(torch.zeros(2, 3), torch.zeros(3), torch.zeros(3, dtype=torch.int64), torch.zeros(()))
