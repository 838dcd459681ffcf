"""Monotone rational-quadratic splines: as exact as their input allows, where others lose digits or raise."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from genkern.ops import rational_quadratic_spline as spline
from genkern.ops import spline_parameters
from genkern.testing import Case, OpSuite, jacobian_log_det

MASK = torch.arange(24).reshape(2, 4, 3) % 2 == 0
TAILS = ["linear", "circular", None]


class TestRationalQuadraticSpline(OpSuite):
    # half of the usual deviation: narrow bins make the function itself ill-conditioned, in the definition as here
    cases = [
        Case("coupling", spline, {"x": (3, 5, 4, 3), "params": (3, 46, 4, 3)}, {"bound": 1.0}, scale=0.5),
        Case(
            "vectors-inverse", spline, {"x": (5, 3), "params": (5, 3 * 23)}, {"bound": 1.0, "inverse": True}, scale=0.5
        ),
        Case(
            "last-circular-flip",
            spline,
            {"x": (3, 3, 5), "params": (3, 2 * 15, 5)},
            {"layout": "parameters_last", "bins": 5, "tails": "circular", "flip": True},
            scale=0.5,
        ),
        Case(
            "last-bounded-inverse",
            spline,
            {"x": (40, 2), "params": (40, 2 * 16)},
            {"layout": "parameters_last", "bins": 5, "tails": None, "inverse": True, "unit_slope": False},
            scale=0.5,
        ),
        Case("masked", spline, {"x": (2, 2, 4, 3), "params": (2, 16, 4, 3)}, {"bins": 3, "mask": MASK}, scale=0.5),
        Case("one-number-a-sample", spline, {"x": (70, 2), "params": (70, 8)}, {"bins": 3, "bound": 1.0}, scale=0.5),
    ]


def draw(tails: str | None, std: float, dtype: torch.dtype, n: int = 20000, bins: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    params = std * torch.randn(n, spline_parameters(bins, tails), dtype=torch.float64, generator=generator)
    x = 8 * torch.rand(n, 1, dtype=torch.float64, generator=generator) - 4
    return x.to(dtype), params.to(dtype)


@pytest.mark.parametrize("tails", TAILS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_a_round_trip_at_std_4_errs_by_no_more_than_the_rounding_of_y(tails, dtype, tolerance):
    """Where the slope is s, rounding y by an ulp moves x by ulp / s: nothing more is lost."""
    x, params = draw(tails, 4.0, dtype)
    y, log_det = spline(x, params, tails=tails)
    back, log_det_back = spline(y, params, tails=tails, inverse=True)
    exact = spline(back.double(), params.double(), tails=tails, impl="torch")[0]
    steepest = torch.maximum(log_det, -log_det_back).exp()[:, None]
    assert ((exact - y.double()).abs() <= tolerance * (1 + steepest)).all()
    flattest = torch.minimum(log_det, -log_det_back).exp()[:, None]
    assert ((back - x).abs() <= 3 * tolerance * (1 + 1 / flattest)).float().mean() > 0.9999
    assert (back - x).abs().max() <= 1e-4 * (1 + 1 / log_det.exp().min())
    assert all(tensor.isfinite().all() for tensor in (y, log_det, back, log_det_back))


@pytest.mark.parametrize("tails", TAILS)
@pytest.mark.parametrize("inverse", [False, True])
def test_log_det_is_that_of_the_jacobian(tails, inverse):
    generator = torch.Generator().manual_seed(1)
    x = 2 * torch.randn(3, 5, dtype=torch.float64, generator=generator)
    params = torch.randn(3, 3 * spline_parameters(4, tails), dtype=torch.float64, generator=generator)
    for sample, own in zip(x, params, strict=True):

        def apply(x: Tensor, own: Tensor = own) -> tuple[Tensor, Tensor]:
            return spline(x, own[None].to(x), bins=4, tails=tails, inverse=inverse)

        expected = jacobian_log_det(lambda x: apply(x)[0], sample[None])
        assert (apply(sample[None])[1] - expected).abs() <= 1e-9
        assert (apply(sample[None].float())[1] - expected).abs() <= 1e-4


@pytest.mark.parametrize("tails", TAILS)
def test_the_density_of_one_dimension_integrates_to_one(tails):
    """A uniform variable on [-B, B] (or a normal one, with tails) pulled back by the spline."""
    _, params = draw(tails, 1.0, torch.float64, n=4)
    wide = 12.0 if tails == "linear" else 3.0
    x = torch.linspace(-wide, wide, 240001, dtype=torch.float64)[:, None]
    for own in params:
        z, log_det = spline(x, own.expand(len(x), -1), tails=tails)
        log_prob = (
            -0.5 * z[:, 0] ** 2 - 0.9189385332046727 if tails == "linear" else torch.full_like(log_det, 1 / 6).log()
        )
        total = torch.trapezoid((log_prob + log_det).exp(), x[:, 0])
        assert abs(total.item() - 1) <= 1e-6


RECORDED = load_file(str(Path(__file__).parents[1] / "nn" / "peers" / "splines.safetensors"))


@pytest.mark.parametrize("tails", TAILS)
@pytest.mark.parametrize("inverse", [False, True])
def test_values_are_those_of_the_peers(tails, inverse):
    part = f"{tails}/{'inverse' if inverse else 'forward'}"
    x, params = RECORDED[f"{part}/x"], RECORDED[f"{part}/params"]
    options = {"bins": 5, "bound": 2.0, "tails": tails, "layout": "parameters_last", "unit_slope": False}
    y, log_det = spline(x, params, inverse=inverse, **options)
    assert (y - RECORDED[f"{part}/y"]).abs().max() <= 1e-10
    assert (log_det - RECORDED[f"{part}/log_det"]).abs().max() <= 1e-9


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("tails", TAILS)
def test_far_outside_the_bound_nothing_happens_and_gradients_say_so(tails, inverse):
    x = torch.tensor([[-1e30], [-30.0], [30.0], [float("inf")]], requires_grad=True)
    params = torch.randn(4, spline_parameters(8, tails), requires_grad=True)
    y, log_det = spline(x, params, tails=tails, inverse=inverse)
    assert torch.equal(y, x) and torch.equal(log_det, torch.zeros(4))
    grad_x, grad_params = torch.autograd.grad(y.clamp(max=1e30).sum() + log_det.sum(), (x, params))
    assert torch.equal(grad_x[:3], torch.ones(3, 1)) and torch.equal(grad_params, torch.zeros_like(params))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("inverse", [False, True])
def test_raw_parameters_of_100_give_finite_values_and_gradients(inverse, dtype):
    generator = torch.Generator().manual_seed(2)
    signs = torch.randint(0, 3, (500, 4 * 23), generator=generator) - 1
    params = (100 * signs).to(dtype).requires_grad_()
    x = torch.linspace(-30, 30, 500).to(dtype)[:, None].expand(-1, 4).clone()
    x[::2] /= 10
    x.requires_grad_()
    y, log_det = spline(x, params, inverse=inverse)
    grads = torch.autograd.grad(y.sum() + log_det.sum(), (x, params))
    assert y.isfinite().all() and log_det.isfinite().all()
    # float16 ends at 65504, and slopes of 1000 in bins of 0.006 have larger gradients: infinite, but numbers
    assert all(not grad.isnan().any() if dtype == torch.float16 else grad.isfinite().all() for grad in grads)
    assert y.dtype == dtype and log_det.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("tails", TAILS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_ends_are_fixed_and_with_linear_tails_their_slope_is_one(tails, dtype):
    x = torch.tensor([[-3.0], [3.0]], dtype=dtype)
    params = 2 * torch.randn(2, spline_parameters(8, tails), dtype=dtype, generator=torch.Generator().manual_seed(3))
    for inverse in (False, True):
        y, log_det = spline(x, params, tails=tails, inverse=inverse)
        assert torch.equal(y, x)
        if tails == "linear":
            assert log_det.abs().max() <= max(1e-13, 4 * torch.finfo(dtype).eps)
    if tails == "circular":
        slope = spline(x, params[:1].expand(2, -1), tails=tails)[1]
        assert abs(slope[0] - slope[1]) <= 8 * torch.finfo(dtype).eps * (1 + abs(slope[0]))


@pytest.mark.parametrize("tails", TAILS)
def test_raw_zeros_are_the_identity(tails):
    x = torch.linspace(-4, 4, 101)[:, None]
    y, log_det = spline(x, torch.zeros(101, spline_parameters(8, tails)), tails=tails)
    assert (y - x).abs().max() <= 4e-7 and log_det.abs().max() <= 1e-6


def test_it_rises_everywhere():
    _, params = draw("linear", 3.0, torch.float32, n=1)
    x = torch.linspace(-3.5, 3.5, 20001)[:, None]
    y, _ = spline(x, params.expand(len(x), -1))
    assert (y.diff(dim=0) >= 0).all()


def test_both_layouts_say_the_same():
    x, params = torch.randn(4, 5, 3, 2), torch.randn(4, 23, 3, 3, 2)
    first = spline(x, params.flatten(1, 2))
    last = spline(x, params.transpose(1, 2).flatten(1, 2), layout="parameters_last")
    assert all(torch.equal(a, b) for a, b in zip(first, last, strict=True))
    assert torch.equal(first[0][:, :2], x[:, :2])


def test_masked_elements_pass_and_the_others_do_not_notice():
    x, params = torch.randn(2, 2, 4, 3), torch.randn(2, 46, 4, 3)
    y, log_det = spline(x, params, mask=MASK)
    whole, _ = spline(x, params)
    assert torch.equal(y, torch.where(MASK, x, whole))
    assert (log_det - spline(x.double(), params.double(), mask=MASK, impl="torch")[1]).abs().max() <= 1e-4


def test_log_det_of_bfloat16_is_float32_and_close():
    x, params = torch.randn(4, 64).bfloat16(), torch.randn(4, 64 * 23).bfloat16()
    _, log_det = spline(x, params)
    _, expected = spline(x.double(), params.double(), impl="torch")
    assert log_det.dtype == torch.float32
    assert (log_det - expected).abs().max() <= 1e-3 * 8


def test_only_x_and_the_raw_parameters_are_saved():
    x, params = torch.randn(64, 8, requires_grad=True), torch.randn(64, 8 * 23, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        spline(x, params)
    assert sum(t.numel() for t in saved) == x.numel() + params.numel()


@pytest.mark.parametrize(
    ("x", "params", "options", "text"),
    [
        ((8, 6), (8, 24), {}, r"params must be of 23 \* C_b channels for some 0 < C_b <= C; got .8, 24. .x is .8, 6.."),
        ((8, 1), (8, 46), {}, "params must be of 23"),
        ((8, 6, 4), (8, 23, 5), {}, "params must be"),
        ((8,), (8,), {}, "x must be"),
        ((8, 6), (8, 23), {"tails": "cubic"}, "tails must be one of .*got 'cubic'"),
        ((8, 6), (8, 23), {"layout": "zigzag"}, "layout must be one of"),
        ((8, 6), (8, 23), {"bound": 0.0}, "bound must be positive"),
        ((8, 6), (8, 23), {"bins": 0}, "bins must be at least 1"),
        ((8, 6), (8, 23), {"min_bin": 0.2}, "min_bin must be between 0 and 1 / bins = 0.125; got 0.2"),
        ((8, 6), (8, 23), {"min_slope": 1.0}, "min_slope must be between 0 and 1"),
        ((8, 6), (8, 6 * 23), {"mask": torch.ones(5, dtype=torch.bool)}, r"mask must be \[6\]; got \[5\]"),
        (
            (8, 6),
            (8, 23),
            {"mask": torch.ones(6, dtype=torch.bool)},
            r"params must be of 23 \* C channels under a mask",
        ),
        ((8, 6), (8, 23), {"impl": "fast"}, "impl must be"),
    ],
)
def test_errors_name_the_argument(x, params, options, text):
    with pytest.raises(ValueError, match=f"rational_quadratic_spline: {text}"):
        spline(torch.zeros(x), torch.zeros(params), **options)


def test_wrong_dtypes_are_refused():
    with pytest.raises(TypeError, match="rational_quadratic_spline: params must be float32.*got torch.int64"):
        spline(torch.zeros(2, 1), torch.zeros(2, 23, dtype=torch.int64))
