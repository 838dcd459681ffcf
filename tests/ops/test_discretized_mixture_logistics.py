import math

import pytest
import torch

from genkern import random
from genkern.ops import discretized_mixture_logistics, sample_discretized_mixture_logistics
from genkern.testing import Case, OpSuite

NAME = "discretized_mixture_logistics"


def pixels(*shape, levels=256, dtype=torch.int64):
    x = torch.randint(0, levels, shape, generator=torch.Generator().manual_seed(3))
    x[0].flatten()[:4] = torch.tensor([0, levels - 1, 0, levels - 1])  # the end levels
    return x.to(dtype)


def case(name, shape, x, **options):
    return Case(name, discretized_mixture_logistics, {"params": shape}, {"x": x, **options}, batched=False)


class TestDiscretizedMixtureLogistics(OpSuite):
    cases = [
        case("colour", (2, 40, 5, 3), pixels(2, 3, 5, 3, dtype=torch.uint8), reduction="sum"),
        case("grey", (2, 15, 9, 8), pixels(2, 1, 9, 8, levels=17), levels=17),
        case("closed", (2, 6, 7), pixels(2, 1, 7, levels=32, dtype=torch.int32), levels=32, open_edges=False, high=0.9),
    ]


def sharpened(params, channels, components, by=3.0, to=-3.0):
    """Log-scales about `to`, give or take `by`: as trained models have them."""
    params = params.clone()
    for c in range(channels):
        first = components + c * (2 if channels == 1 else 3) * components + components
        params[:, first : first + components] = params[:, first : first + components] * by + to
    return params


@pytest.mark.parametrize("channels", [1, 3])
def test_sharp_scales_are_right_to_2e_4_nats_where_the_published_form_is_not(channels):
    params = torch.randn(4, 10 * (3 if channels == 1 else 10), 16, 16, generator=torch.Generator().manual_seed(0))
    params, x = sharpened(params, channels, 10), pixels(4, channels, 16, 16)
    truth = discretized_mixture_logistics(params.double(), x, impl="torch")
    assert (discretized_mixture_logistics(params, x) - truth).abs().max() <= 2e-4
    assert (discretized_mixture_logistics(params, x, form="reference") - truth).abs().max() >= 1e-3


def test_mild_scales_agree_with_the_published_form():
    params, x = torch.randn(2, 40, 8, 8, dtype=torch.float64), pixels(2, 3, 8, 8)
    exact, published = (discretized_mixture_logistics(params, x, form=form) for form in ("exact", "reference"))
    torch.testing.assert_close(exact, published, atol=2e-3, rtol=0)


@pytest.mark.parametrize("levels", [2, 17, 256, 1000])
@pytest.mark.parametrize("span", [(-1.0, 1.0), (-1.0, 0.9922), (0.0, 3.0)])
def test_the_probabilities_of_all_levels_sum_to_one(levels, span):
    params = torch.randn(1, 15, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    params = params.expand(levels, 15, 1)
    x = torch.arange(levels).reshape(levels, 1, 1)
    nll = discretized_mixture_logistics(params, x, levels=levels, low=span[0], high=span[1])
    torch.testing.assert_close((-nll).exp().sum(), torch.ones((), dtype=torch.float64), rtol=1e-9, atol=0)


def test_the_probabilities_of_all_colours_sum_to_one():
    params = torch.randn(1, 20, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).expand(7**3, 20, 1)
    x = torch.cartesian_prod(*[torch.arange(7)] * 3)[..., None]
    total = (-discretized_mixture_logistics(params, x, levels=7)).exp().sum()
    assert abs(total.item() - 1) <= 1e-9


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_parameters_stay_finite(channels, dtype):
    parts = 3 if channels == 1 else 10
    params = torch.tensor([100.0, -100.0, 0.0])[torch.randint(0, 3, (64, 4 * parts, 50))].to(dtype).requires_grad_()
    nll = discretized_mixture_logistics(params, pixels(64, channels, 50))
    (grad,) = torch.autograd.grad(nll.sum(), params)
    assert nll.dtype == torch.float32 and nll.isfinite().all() and grad.isfinite().all()


def test_a_scale_below_the_bound_has_no_gradient():
    params = torch.zeros(1, 3, 2)
    params[:, 2] = torch.tensor([-8.0, -6.0])
    params.requires_grad_()
    nll = discretized_mixture_logistics(params, torch.full((1, 1, 2), 127))
    (grad,) = torch.autograd.grad(nll.sum(), params)
    assert grad[0, 2, 0] == 0 and grad[0, 2, 1] != 0


def test_an_empty_batch_and_every_integer_type_work():
    params, x = torch.randn(3, 12, 4, 5), pixels(3, 1, 4, 5, levels=200)
    wanted = discretized_mixture_logistics(params, x, levels=200)
    for dtype in (torch.uint8, torch.int16, torch.int32):
        assert torch.equal(discretized_mixture_logistics(params, x.to(dtype), levels=200), wanted)
    empty = params[:0].clone().requires_grad_()
    nll = discretized_mixture_logistics(empty, x[:0], levels=200, reduction="sum")
    assert nll.shape == (0,) and torch.autograd.grad(nll.sum(), empty)[0].shape == empty.shape


# -- sampling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_kernel_and_definition_draw_the_same(channels, temperature):
    params = torch.randn(3, 4 * (3 if channels == 1 else 10), 9, 11, dtype=torch.float64)
    options = {"channels": channels, "levels": 32, "temperature": temperature, "key": random.key(5)}
    x = sample_discretized_mixture_logistics(params, **options)
    assert torch.equal(x, sample_discretized_mixture_logistics(params, **options, impl="torch"))
    assert x.shape == (3, channels, 9, 11) and x.dtype == torch.uint8 and x.max() <= 31


def test_draws_have_the_probabilities_of_the_likelihood():
    count, levels = 200_000, 5
    params = torch.randn(1, 20, 1, generator=torch.Generator().manual_seed(2))
    x = sample_discretized_mixture_logistics(params.expand(1, 20, count), levels=levels, key=random.key(0))
    code = (x[0].long() * torch.tensor([levels**2, levels, 1])[:, None]).sum(0)
    found = torch.bincount(code, minlength=levels**3) / count
    colours = torch.cartesian_prod(*[torch.arange(levels)] * 3)[..., None]
    wanted = (-discretized_mixture_logistics(params.expand(levels**3, 20, 1), colours, levels=levels)).exp().flatten()
    spread = 5 * (wanted / count).sqrt() + 1e-5  # five standard deviations
    assert ((found - wanted).abs() <= spread).all()


def test_a_sample_depends_on_its_own_index_alone():
    params = torch.randn(6, 20, 3, 3)
    whole = sample_discretized_mixture_logistics(params, key=random.key(1))
    part = sample_discretized_mixture_logistics(params[4:], key=random.key(1), sample_offset=4)
    assert torch.equal(whole[4:], part)


def test_given_noise_is_what_is_used():
    params, noise = torch.randn(2, 30, 4), random.uniform(random.key(2), (2, 4, 4))
    assert torch.equal(
        sample_discretized_mixture_logistics(params, noise=noise),
        sample_discretized_mixture_logistics(params, key=random.key(2)),
    )


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "x", "options", "text"),
    [
        ((2, 31, 4), (2, 3, 4), {}, r"params must be \[B, 10K, \*\] for 3 channel\(s\); got \[2, 31, 4\]"),
        ((2, 30, 4), (2, 2, 4), {}, "x must be .* 1 or 3 channels"),
        ((2, 30, 4), (2, 3, 5), {}, r"x must be .*got \[2, 3, 5\] \(params is \[2, 30, 4\]\)"),
        ((2, 30, 4), (2, 3, 4), {"levels": 1}, "levels must be an int from 2 to 65536; got 1"),
        ((2, 30, 4), (2, 3, 4), {"low": 1.0}, "low must be below high"),
        ((2, 30, 4), (2, 3, 4), {"min_log_scale": -50.0}, "min_log_scale must be at least -20"),
        ((2, 30, 4), (2, 3, 4), {"form": "fast"}, "form must be one of"),
        ((2, 30, 4), (2, 3, 4), {"reduction": "mean"}, "reduction must be one of"),
    ],
)
def test_errors_name_the_argument(params, x, options, text):
    with pytest.raises(ValueError, match=f"{NAME}: {text}"):
        discretized_mixture_logistics(torch.zeros(params), torch.zeros(x, dtype=torch.int64), **options)


def test_wrong_dtypes_and_noise_are_refused():
    with pytest.raises(TypeError, match=f"{NAME}: x must be uint8.*got torch.float32"):
        discretized_mixture_logistics(torch.zeros(2, 30, 4), torch.zeros(2, 3, 4))
    with pytest.raises(ValueError, match=r"noise must be \[2, 4, 4\]; got \[2, 3, 4\]"):
        sample_discretized_mixture_logistics(torch.zeros(2, 30, 4), noise=torch.full((2, 3, 4), 0.5))


def test_one_flat_component_has_the_entropy_of_its_levels():
    """A logistic so wide that all inner levels are alike: the density of the bin, by hand."""
    params = torch.tensor([0.0, 0.0, 3.0], dtype=torch.float64).reshape(1, 3, 1)
    nll = discretized_mixture_logistics(params, torch.full((1, 1, 1), 128))
    u = 1 / 255 * math.exp(-3)
    assert abs(nll.item() + math.log(math.exp(-3) * 2 / 255 / 4)) <= u
