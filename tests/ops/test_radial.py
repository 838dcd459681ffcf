import pytest
import torch

from genkern.ops import radial
from genkern.testing import Case, OpSuite, assert_within_rule, jacobian_log_det

EACH = {"x": (33, 6), "center": (33, 6), "raw_alpha": (33,), "raw_beta": (33,)}
SHARED = {"x": (70, 3), "center": (3,), "raw_alpha": (), "raw_beta": ()}
WIDE = {"x": (9, 40), "center": (40,), "raw_alpha": (), "raw_beta": ()}
PICTURES = {"x": (3, 2, 3, 4), "center": (24,), "raw_alpha": (3,), "raw_beta": ()}


class TestRadial(OpSuite):
    cases = [
        Case("each-sample", radial, EACH),
        Case("each-sample-inverse", radial, EACH, {"inverse": True}),
        Case("shared", radial, SHARED, batched=False),
        Case("shared-inverse-wide", radial, WIDE, {"inverse": True}, batched=False),
        Case("pictures", radial, PICTURES, batched=False),
    ]


def parameters(size, scale=1.0, dtype=torch.float64, seed=0, batch=()):
    generator = torch.Generator().manual_seed(seed)
    shapes = (*batch, size), batch, batch
    return [(scale * torch.randn(s, generator=generator, dtype=torch.float64)).to(dtype) for s in shapes]


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_log_det_is_that_of_the_jacobian(scale, inverse):
    x, given = torch.randn(4, 5, dtype=torch.float64), parameters(5, scale)
    expected = jacobian_log_det(lambda x: radial(x, *given, inverse=inverse)[0], x)
    _, log_det = radial(x, *given, inverse=inverse)
    torch.testing.assert_close(log_det, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("size", [1, 2, 7, 64, 300])
def test_inverse_undoes_forward(size, dtype, tolerance):
    x = torch.randn(300, size, generator=torch.Generator().manual_seed(size), dtype=torch.float64).to(dtype)
    given = parameters(size, 2.0, dtype, batch=(300,))
    y, log_det = radial(x, *given)
    back, log_det_back = radial(y, *given, inverse=True)
    assert (back - x).abs().max() <= tolerance * (1 + y.abs().max())
    assert (log_det + log_det_back).abs().max() <= tolerance * (1 + log_det.abs().max())


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("alpha", [-100.0, -20.0, 0.0, 100.0])
@pytest.mark.parametrize("beta", [-100.0, 0.0, 100.0])
def test_extreme_parameters_give_finite_values_and_gradients_even_at_the_centre(alpha, beta, inverse):
    x = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0 + 1e-6], [30.0, -30.0, 1.0]], requires_grad=True)
    center = torch.ones(3, 3, requires_grad=True)
    raw = [torch.full((3,), value, requires_grad=True) for value in (alpha, beta)]
    y, log_det = radial(x, center, *raw, inverse=inverse)
    grads = torch.autograd.grad(y.sum() + log_det.sum(), (x, center, *raw))
    assert all(tensor.isfinite().all() for tensor in (y, log_det, *grads))


@pytest.mark.parametrize("raw", [(0.0, 1e-3), (3.0, -9.0), (-9.0, 3.0)])
def test_log_det_keeps_small_terms_and_large_ones(raw):
    """beta near 0, where ln(1 + q) is q; and q near -1, where 1 + q cancels."""
    x = torch.randn(64, 50, generator=torch.Generator().manual_seed(1)) * 0.01
    given = (torch.zeros(50), torch.tensor(raw[0]), torch.tensor(raw[1]))
    truth = radial(x.double(), *(t.double() for t in given), impl="torch")[1]
    assert_within_rule(radial(x, *given)[1], radial(x, *given, impl="torch")[1], truth)
    assert ((radial(x, *given)[1].double() - truth).abs() <= 2e-6 * truth.abs()).all()


def test_the_density_of_a_radial_flow_integrates_to_one():
    grid = torch.linspace(-9, 9, 451, dtype=torch.float64)
    x = torch.stack(torch.meshgrid(grid, grid, indexing="ij"), -1).flatten(0, 1)
    center, alpha, beta = (torch.tensor(v, dtype=torch.float64) for v in ([0.3, -0.2], 0.5, 2.0))
    for inverse in (False, True):
        z, log_det = radial(x, center, alpha, beta, inverse=inverse)
        density = (log_det - 0.5 * z.square().sum(1)).exp() / (2 * torch.pi)
        assert abs(density.sum() * (grid[1] - grid[0]) ** 2 - 1) < 2e-3


def test_shared_parameters_are_those_of_every_sample():
    x, leaves = torch.randn(1100, 5, dtype=torch.float64), [t.requires_grad_() for t in parameters(5)]
    spread = [t.detach().expand(1100, *t.shape).clone().requires_grad_() for t in leaves]
    for inverse in (False, True):
        y, log_det = radial(x, *leaves, inverse=inverse)
        y_each, log_det_each = radial(x, *spread, inverse=inverse)
        torch.testing.assert_close((y, log_det), (y_each, log_det_each), rtol=1e-12, atol=1e-12)
        grads = torch.autograd.grad(y.square().sum() + log_det.sum(), leaves)
        grads_each = torch.autograd.grad(y_each.square().sum() + log_det_each.sum(), spread)
        for grad, each in zip(grads, grads_each, strict=True):
            torch.testing.assert_close(grad, each.sum(0))


@pytest.mark.parametrize(
    ("shapes", "text"),
    [
        (((3,), (3,), (), ()), "x must be"),
        (((4, 3), (2,), (), ()), "center must be .D. or .B, D.; got .2. .x is .4, 3.."),
        (((4, 3), (3,), (1,), ()), "raw_alpha must be"),
        (((4, 3), (3,), (), (4, 3)), "raw_beta must be"),
    ],
)
def test_errors_name_the_argument(shapes, text):
    with pytest.raises(ValueError, match=f"radial: {text}"):
        radial(*(torch.zeros(shape) for shape in shapes))
