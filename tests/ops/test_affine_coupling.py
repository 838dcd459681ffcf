import pytest
import torch

from genkern.ops import additive_coupling, affine_coupling
from genkern.testing import Case, OpSuite, assert_within_rule, jacobian_log_det

IMAGE = {"x": (3, 7, 5, 3), "params": (3, 6, 5, 3)}
LONG = {"x": (2, 6, 17, 31), "params": (2, 6, 17, 31)}
VECTOR = {"x": (5, 9), "params": (5, 8)}
CHECKERBOARD = (torch.arange(5)[:, None] + torch.arange(4)) % 2 == 0


class TestAffineCoupling(OpSuite):
    cases = [
        Case("sigmoid", affine_coupling, IMAGE),
        Case("exp", affine_coupling, IMAGE, {"scale": "exp", "flip": True}),
        Case("tanh", affine_coupling, IMAGE, {"scale": "tanh", "bound": 2.0, "layout": "shift_scale"}),
        Case("interleaved", affine_coupling, LONG, {"layout": "interleaved"}),
        Case("vectors-inverse", affine_coupling, VECTOR, {"inverse": True, "layout": "interleaved"}),
        Case("long-inverse", affine_coupling, LONG, {"inverse": True, "scale": "tanh"}),
        Case(
            "masked",
            affine_coupling,
            {"x": (2, 3, 5, 4), "params": (2, 6, 5, 4)},
            {"mask": CHECKERBOARD.expand(3, 5, 4)},
        ),
        Case("all-channels", affine_coupling, {"x": (4, 7), "params": (4, 14)}, {"scale": "tanh", "inverse": True}),
        Case("wide", affine_coupling, {"x": (2, 70, 3, 2), "params": (2, 70, 3, 2)}, {"scale": "exp"}),
    ]


class TestAdditiveCoupling(OpSuite):
    cases = [
        Case("image", additive_coupling, {"x": (3, 5, 4, 3), "shift": (3, 2, 4, 3)}),
        Case("vector-inverse", additive_coupling, {"x": (4, 70), "shift": (4, 35)}, {"inverse": True, "flip": True}),
        Case(
            "masked",
            additive_coupling,
            {"x": (2, 3, 5, 4), "shift": (2, 3, 5, 4)},
            {"mask": CHECKERBOARD.expand(3, 5, 4)},
        ),
    ]


def halves(channels: int, scale: str, **options):
    """A coupling whose parameters depend on the passive half, so that the Jacobian has off-diagonal blocks."""
    active = channels // 2
    mixer = torch.randn(2 * active, channels - active, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def apply(x, inverse=False):
        passive = x[:, active:] if options.get("flip") else x[:, : channels - active]
        params = torch.einsum("oc,bc...->bo...", mixer.to(x), passive)
        return affine_coupling(x, params, scale=scale, inverse=inverse, **options)

    return apply


@pytest.mark.parametrize("scale", ["exp", "tanh", "sigmoid"])
@pytest.mark.parametrize("flip", [False, True])
def test_log_det_is_that_of_the_jacobian(scale, flip):
    x = torch.randn(3, 5, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    coupling = halves(5, scale, flip=flip)
    expected = jacobian_log_det(lambda x: coupling(x)[0], x)
    assert (coupling(x)[1] - expected).abs().max() <= 1e-9
    assert (coupling(x.float())[1] - expected).abs().max() <= 1e-4


@pytest.mark.parametrize("scale", ["exp", "tanh", "sigmoid"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_inverse_undoes_forward(scale, dtype, tolerance):
    x = torch.randn(4, 6, 8, 8, dtype=dtype, generator=torch.Generator().manual_seed(2))
    coupling = halves(6, scale)
    y, log_det = coupling(x)
    back, log_det_back = coupling(y, inverse=True)
    assert (back - x).abs().max() <= tolerance * max(1, y.abs().max())
    assert (log_det + log_det_back).abs().max() <= 1e-6 * (1 + log_det.abs().max())


@pytest.mark.parametrize("scale", ["tanh", "sigmoid"])
def test_extreme_parameters_stay_finite(scale):
    x = torch.full((2, 4, 3, 3), 30.0, requires_grad=True)
    params = torch.tensor([100.0, -100.0]).repeat(18).reshape(1, 4, 3, 3).repeat(2, 1, 1, 1).requires_grad_()
    y, log_det = affine_coupling(x, params, scale=scale)
    grads = torch.autograd.grad(y.sum() + log_det.sum(), (x, params))
    assert all(tensor.isfinite().all() for tensor in (y, log_det, *grads))


def test_log_det_keeps_tiny_terms():
    """sigmoid(s + 2) with s = 15: every term is about -4e-8 and would vanish in a float32 product of 1 + e."""
    x, params = torch.zeros(1, 2, 64, 64), torch.full((1, 2, 64, 64), 15.0)
    truth = affine_coupling(x.double(), params.double(), impl="torch")[1]
    assert_within_rule(affine_coupling(x, params)[1], affine_coupling(x, params, impl="torch")[1], truth)


def test_log_det_of_bfloat16_is_float32_and_close():
    x, params = torch.randn(4, 48, 16, 16).bfloat16(), torch.randn(4, 48, 16, 16).bfloat16()
    _, log_det = affine_coupling(x, params)
    _, expected = affine_coupling(x.float(), params.float())
    assert log_det.dtype == torch.float32
    assert (log_det - expected).abs().max() <= 1e-3 * (24 * 256) ** 0.5


def test_the_passive_half_is_untouched_and_the_mask_passes():
    x, params = torch.randn(2, 6, 5, 4), torch.randn(2, 6, 5, 4)
    assert torch.equal(affine_coupling(x, params)[0][:, :3], x[:, :3])
    mask = CHECKERBOARD.expand(6, 5, 4)
    y, _ = affine_coupling(x, torch.randn(2, 12, 5, 4), mask=mask)
    assert torch.equal(y[:, mask], x[:, mask])


@pytest.mark.parametrize("channels", [6, 48])
@pytest.mark.parametrize("order", ["channels_last", "permuted"])
def test_compiled_code_may_view_outputs_of_any_order(channels, order):
    """The shapes and strides that the compiler is told are those that the kernels return."""

    def function(x, params):
        y, log_det = affine_coupling(x, params)
        return (y.reshape(len(y), -1) * 2).sum() + log_det.sum()

    x, params = torch.randn(2, channels, 4, 6), torch.randn(2, channels, 4, 6)
    if order == "channels_last":
        x, params = (tensor.to(memory_format=torch.channels_last) for tensor in (x, params))
    else:
        x = x.transpose(2, 3).contiguous().transpose(2, 3)
    x.requires_grad_(), params.requires_grad_()
    torch._dynamo.reset()
    value = torch.compile(function, fullgraph=True, backend="aot_eager")(x, params)
    grads = torch.autograd.grad(value, (x, params))
    for compiled, eager in zip(grads, torch.autograd.grad(function(x, params), (x, params)), strict=True):
        torch.testing.assert_close(compiled, eager)


@pytest.mark.parametrize(
    ("x", "params", "options", "text"),
    [
        (
            (8, 6, 4, 4),
            (8, 7, 4, 4),
            {},
            "params must be of 2 [*] C_b channels .* got .8, 7, 4, 4. .x is .8, 6, 4, 4..",
        ),
        ((8, 6, 4, 4), (8, 14, 4, 4), {}, "params .* 0 < C_b <= C"),
        ((8, 6, 4, 4), (7, 6, 4, 4), {}, "params must be"),
        ((8,), (8,), {}, "x must be"),
        ((8, 6), (8, 6), {"scale": "relu"}, "scale must be one of .*got 'relu'"),
        ((8, 6), (8, 6), {"layout": "zigzag"}, "layout must be one of"),
        ((8, 6), (8, 6), {"bound": 0.0}, "bound must be positive"),
        ((8, 6), (8, 12), {"mask": torch.ones(5, dtype=torch.bool)}, r"mask must be \[6\]; got \[5\]"),
        ((8, 6), (8, 6), {"impl": "fast"}, "impl must be"),
    ],
)
def test_errors_name_the_argument(x, params, options, text):
    with pytest.raises(ValueError, match=f"affine_coupling: {text}"):
        affine_coupling(torch.zeros(x), torch.zeros(params), **options)


def test_wrong_dtypes_are_refused():
    with pytest.raises(TypeError, match="affine_coupling: params must be float32.*got torch.int64"):
        affine_coupling(torch.zeros(2, 4), torch.zeros(2, 4, dtype=torch.int64))
    with pytest.raises(TypeError, match="affine_coupling: x must be a tensor; got list"):
        affine_coupling([1.0], torch.zeros(2, 4))
