import math

import numpy
import pytest
import torch

from genkern import random
from genkern.ops import discretized_gaussian, q_sample, vlb_coefficients, vlb_term
from genkern.testing import Case, OpSuite

BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
ALPHAS_CUMPROD = (1 - BETAS).cumprod(0)


def pixels(shape, seed=0, levels=256):
    x = torch.randint(0, levels, shape, generator=torch.Generator().manual_seed(seed)).double()
    return x * 2 / (levels - 1) - 1


def of_pixels(mean, log_std, x, **options):
    return discretized_gaussian(x.to(mean), mean, log_std - 2, **options)


def of_samples(mean, log_std, x, **options):
    return of_pixels(mean, log_std.reshape(-1, *(1,) * (mean.dim() - 1)), x, **options)


class TestDiscretizedGaussian(OpSuite):
    cases = [
        Case("erf", of_pixels, {"mean": (3, 5, 7, 3), "log_std": (3, 5, 7, 3)}, {"x": pixels((3, 5, 7, 3))},
             batched=False),
        Case("tanh", of_pixels, {"mean": (2, 1100), "log_std": (2, 1100)}, {"x": pixels((2, 1100)), "cdf": "tanh"},
             scale=0.5, batched=False),
        Case("one-scale-a-sample", of_samples, {"mean": (70, 3), "log_std": (70,)}, {"x": pixels((70, 3))},
             batched=False),
        Case("free", discretized_gaussian, dict.fromkeys(("x", "mean", "log_std"), (4, 33))),
        Case("free-tanh", discretized_gaussian, dict.fromkeys(("x", "mean", "log_std"), (4, 33)), {"cdf": "tanh"}),
    ]  # fmt: skip


def table(variance_type, prediction_type="epsilon", t=(0, 500, 3)):
    return vlb_coefficients(ALPHAS_CUMPROD, variance_type=variance_type, prediction_type=prediction_type)[list(t)]


def learned(x0, x_t, output, variance, **options):
    return vlb_term(x0, x_t, output, variance=variance, **options)


def terms(*shape, variance=False):
    return dict.fromkeys(("x0", "x_t", "output", *(("variance",) if variance else ())), shape)


class TestVlbTerm(OpSuite):
    """Of samples at steps 0 (the decoder), 500 and 3."""

    cases = [
        Case("fixed", vlb_term, terms(3, 5, 7, 3), {"coefficients": table("fixed_large")}, batched=False),
        Case("unclipped", vlb_term, terms(3, 11), {"coefficients": table("fixed_small"), "clip_denoised": False},
             batched=False),
        Case("learned-range", learned, terms(3, 1100, variance=True), {"coefficients": table("learned_range"),
                                                                      "cdf": "tanh"}, batched=False),
        Case("velocity", learned, terms(3, 5, variance=True), {"coefficients": table("learned_range", "v_prediction")},
             scale=0.5, batched=False),
        Case("learned", learned, terms(3, 6, variance=True), {"coefficients": table("learned", "sample")}, scale=0.5,
             batched=False),
    ]  # fmt: skip


def improved_diffusion(x, means, log_scales):
    """Of its losses.py, in float64: the same branches, the same floor."""

    def cdf(u):
        return 0.5 * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (u + 0.044715 * u**3)))

    centered, inv_stdv = x - means, torch.exp(-log_scales)
    cdf_plus, cdf_min = cdf(inv_stdv * (centered + 1.0 / 255.0)), cdf(inv_stdv * (centered - 1.0 / 255.0))
    below, above = cdf_plus.clamp(min=1e-12).log(), (1.0 - cdf_min).clamp(min=1e-12).log()
    return torch.where(x < -0.999, below, torch.where(x > 0.999, above, (cdf_plus - cdf_min).clamp(min=1e-12).log()))


@pytest.mark.parametrize("impl", ["auto", "torch"])
def test_tanh_is_that_of_improved_diffusion(impl):
    x = pixels((64, 300)).clone()
    x[:, :50], x[:, 50:100] = -1, 1
    mean = x + 0.3 * torch.randn(64, 300, dtype=torch.float64)
    log_std = torch.linspace(-7, 0.5, 64, dtype=torch.float64)[:, None]
    found = torch.stack(
        [discretized_gaussian(x[:, i], mean[:, i], log_std[:, 0], cdf="tanh", impl=impl) for i in range(300)]
    )
    wanted = improved_diffusion(x, mean, log_std).T
    torch.testing.assert_close(
        found[wanted > -20], wanted[wanted > -20], rtol=0, atol=1e-7
    )  # they cancel near the floor
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("impl", ["auto", "torch"])
def test_erf_is_exact_in_every_regime(impl, dtype):
    """Against the quadrature of the density over the bin, which has neither tails nor cancellation."""
    x = torch.tensor(100 / 255 * 2 - 1, dtype=torch.float64)
    nodes, weights = (torch.tensor(v) for v in numpy.polynomial.legendre.leggauss(200))
    for log_std in (-6.0, -5.0, -3.0, -1.0, 0.0, 2.0, 10.0):
        for shift in (0.0, 1e-3, 0.003, 1 / 255, 0.005, 0.02, 0.1, 1.0):
            std = math.exp(log_std)
            given = [torch.tensor([v]).to(dtype) for v in (x, x - shift, log_std)]
            centre = float(given[0].double() - given[1].double())
            exponent = -0.5 * ((centre + nodes / 255) / std) ** 2
            wanted = torch.logsumexp(exponent + weights.log(), 0)
            wanted = wanted - math.log(255 * std) - 0.5 * math.log(2 * math.pi)
            found = discretized_gaussian(*given, impl=impl)
            tolerance = {torch.float64: 1e-9, torch.float32: 2e-6}[dtype]
            assert abs(found.double() - wanted) <= tolerance * max(1.0, abs(wanted)), (log_std, shift)


@pytest.mark.parametrize("cdf", ["erf", "tanh"])
@pytest.mark.parametrize("levels", [2, 17, 256])
def test_probabilities_sum_to_one(cdf, levels):
    x = torch.linspace(-1, 1, levels, dtype=torch.float64)
    for mean in (-1.4, 0.1, 1.0):
        for log_std in (-2.0, 0.0, 1.0):
            log_prob = discretized_gaussian(
                x, *(torch.full_like(x, v) for v in (mean, log_std)), levels=levels, cdf=cdf
            )
            assert abs(log_prob.exp().sum() - 1) < 1e-9


@pytest.mark.parametrize("impl", ["auto", "torch"])
@pytest.mark.parametrize("cdf", ["erf", "tanh"])
@pytest.mark.parametrize("log_std", [-100.0, 100.0])
def test_extreme_scales_give_finite_values_and_gradients(log_std, cdf, impl):
    x = torch.tensor([[-1.0, 0.2, 1.0]]).expand(3, 3)
    leaves = [torch.tensor([[0.2], [-100.0], [100.0]]).expand(3, 3).clone().requires_grad_(),
              torch.full((3, 3), log_std, requires_grad=True)]  # fmt: skip
    log_prob = discretized_gaussian(x, *leaves, cdf=cdf, impl=impl)
    assert log_prob.isfinite().all() and log_prob.dtype == torch.float32
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(log_prob.sum(), leaves))


def gaussian_kl(mean1, log_variance1, mean2, log_variance2):
    first, second = (
        torch.distributions.Normal(mean, (0.5 * log_variance).exp())
        for mean, log_variance in ((mean1, log_variance1), (mean2, log_variance2))
    )
    return torch.distributions.kl_divergence(first, second).flatten(1).sum(1)


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large", "learned", "learned_range"])
def test_terms_are_those_of_the_formulas(variance_type, prediction_type, clip):
    """Written out as in section 2 of the paper, one step at a time, from betas alone."""
    x0, key = pixels((4, 3, 6, 6)), random.key(0)
    output, v = torch.randn(2, 4, 3, 6, 6, dtype=torch.float64)
    coefficients = vlb_coefficients(ALPHAS_CUMPROD, prediction_type=prediction_type, variance_type=variance_type)
    for t in (0, 1, 40, 999):
        now, before = ALPHAS_CUMPROD[t], ALPHAS_CUMPROD[t - 1] if t else torch.ones(()).double()
        x_t = q_sample(x0, now.sqrt(), (1 - now).sqrt(), key=key)
        estimate = {"epsilon": (x_t - (1 - now).sqrt() * output) / now.sqrt(), "sample": output,
                    "v_prediction": now.sqrt() * x_t - (1 - now).sqrt() * output}[prediction_type]  # fmt: skip
        estimate = estimate.clamp(-1, 1) if clip else estimate

        def mean(x):
            first = before.sqrt() * BETAS[t] / (1 - now)  # noqa: B023
            return first * x + BETAS[t].neg().add(1).sqrt() * (1 - before) / (1 - now) * x_t  # noqa: B023

        small = (1 - ALPHAS_CUMPROD[max(t, 1) - 1]) / (1 - ALPHAS_CUMPROD[max(t, 1)]) * BETAS[max(t, 1)]
        large = BETAS[t] if t else small
        between = (v + 1) / 2 * BETAS[t].log() + (1 - v) / 2 * small.log()
        log_variance = {"fixed_small": small.log(), "fixed_large": large.log(), "learned": v,
                        "learned_range": between}[variance_type]  # fmt: skip
        log_variance = log_variance.expand_as(x0)
        if t == 0:
            wanted = -discretized_gaussian(x0, mean(estimate), 0.5 * log_variance, impl="torch")
        else:
            wanted = gaussian_kl(mean(x0), small.log().expand_as(x0), mean(estimate), log_variance)
        variance = v if variance_type.startswith("learned") else None
        steps = torch.full((4,), t)
        call = (x0, x_t, output, coefficients)
        found = vlb_term(*call, timesteps=steps, variance=variance, clip_denoised=clip)
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-9)


def test_a_perfect_model_pays_for_the_decoder_alone():
    """Its estimate is x0 and its variance that of the posterior, so that every divergence is 0."""
    x0, coefficients = pixels((1000, 5)), vlb_coefficients(ALPHAS_CUMPROD, prediction_type="sample")
    found = vlb_term(x0, torch.randn_like(x0), x0, coefficients, timesteps=torch.arange(1000))
    assert found[1:].abs().max() == 0 and found[0] > 0


def test_small_divergences_keep_their_digits_in_float32():
    """A variance one per cent off costs 1e-5 nats: what is left of e^d - 1 - d when d is small."""
    x0 = pixels((4, 2000)).float()
    x_t = torch.randn_like(x0)
    coefficients = vlb_coefficients(ALPHAS_CUMPROD, prediction_type="sample", variance_type="learned_range")
    t, v = torch.tensor([1, 2, 5, 10]), torch.full_like(x0, -0.9)
    call = {"timesteps": t, "clip_denoised": False}
    given = [value.double() for value in (x0, x_t, x0)]
    exact = vlb_term(*given, coefficients, variance=v.double(), **call, impl="torch")
    found = vlb_term(x0, x_t, x0, coefficients, variance=v, **call)
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=0)


@pytest.mark.parametrize("impl", ["auto", "torch"])
def test_extreme_outputs_give_no_nan(impl):
    x0 = pixels((3, 4)).float()
    for variance_type in ("learned", "learned_range"):
        for value in (-100.0, 100.0):
            output, v = (torch.full((3, 4), value, requires_grad=True) for _ in range(2))
            call = {"coefficients": table(variance_type), "variance": v, "impl": impl}
            term = vlb_term(x0, x0, output, **call)
            assert not any(grad.isnan().any() for grad in (term, *torch.autograd.grad(term.sum(), (output, v))))


def test_strided_schedules_are_schedules():
    """Every second step: betas are those of two steps at once."""
    strided = ALPHAS_CUMPROD[1::2]
    beta = 1 - strided[10] / strided[9]
    assert torch.allclose(vlb_coefficients(strided, variance_type="fixed_large")[10, 5], beta.log())


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (
            lambda x, c: discretized_gaussian(x, x, x[:1, :2]),
            ValueError,
            "discretized_gaussian: log_std must be broadc",
        ),
        (lambda x, c: discretized_gaussian(x, x, x, levels=1), ValueError, "levels must be an int, at least 2; got 1"),
        (lambda x, c: discretized_gaussian(x, x, x, cdf="probit"), ValueError, "cdf must be one of .* got 'probit'"),
        (lambda x, c: vlb_term(x, x, x[:, :2], c), ValueError, r"vlb_term: output must be of the shape of x0 \[3, 4\]"),
        (
            lambda x, c: vlb_term(x, x, x, c[:2]),
            ValueError,
            r"coefficients must be a floating tensor \[B = 3, 8\]; got \[",
        ),
        (lambda x, c: vlb_term(x, x, x, 3), ValueError, "coefficients must be a floating tensor .* got int"),
        (lambda x, c: vlb_term(x, x, x, c.requires_grad_()), ValueError, "coefficients must be without gradient, or"),
        (lambda x, c: vlb_term(x, x, x, c, timesteps=torch.zeros(2).long()), ValueError, r"timesteps must be \[B\]"),
        (lambda x, c: vlb_coefficients(c), ValueError, r"alphas_cumprod must be a tensor \[T\], T >= 2; got \[3, 8\]"),
        (lambda x, c: vlb_coefficients(c[0], variance_type="small"), ValueError, "variance_type must be one of"),
        (lambda x, c: vlb_coefficients(c[0], prediction_type="eps"), ValueError, "prediction_type must be one of"),
    ],
)
def test_errors_name_the_argument(call, error, text):
    with pytest.raises(error, match=text):
        call(torch.zeros(3, 4), table("fixed_small").float())
