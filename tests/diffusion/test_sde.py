"""Stochastic differential equations: every step's coefficients by unit inputs, exact likelihoods, two modes."""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from genkern import random
from genkern.diffusion import SDE, VESDE, VPSDE, SubVPSDE, predictor_corrector
from genkern.ops import diffusion_step
from genkern.testing import assert_same_bits

KEY = random.key(11)
SDES = {"vp": VPSDE(), "sub-vp": SubVPSDE(), "ve": VESDE()}
N = 50


@pytest.fixture(autouse=True)
def _same_inputs_every_time():
    torch.manual_seed(0)


def formula(sde: SDE, kind: str, k: int) -> tuple[float, float, float]:
    """Coefficients of x, score and noise of step k (of N, in the order of sampling), as the paper's code has them."""
    t = 1 + (sde.smallest_time - 1) * k / (N - 1)
    i = N - 1 - k
    if isinstance(sde, VESDE):
        sigma = [sde.sigma_min * (sde.sigma_max / sde.sigma_min) ** (j / (N - 1)) for j in range(N)]
        below = sigma[i - 1] if i else 0.0
        if kind == "euler-maruyama":
            s = sde.sigma_min * (sde.sigma_max / sde.sigma_min) ** t
            g = s * math.sqrt(2 * math.log(sde.sigma_max / sde.sigma_min))
            return 1.0, g * g / N, g / math.sqrt(N)
        drop = sigma[i] ** 2 - below**2
        shrink = below / sigma[i] if kind == "ancestral" else 1.0
        return 1.0, drop, math.sqrt(drop) * shrink
    beta_t = 0.1 + 19.9 * t
    if kind == "euler-maruyama" or isinstance(sde, SubVPSDE):
        g2 = beta_t
        if isinstance(sde, SubVPSDE):
            g2 *= 1 - math.exp(-2 * 0.1 * t - 19.9 * t * t)
        return 1 + beta_t / (2 * N), g2 / N, math.sqrt(g2 / N)
    beta = 0.1 / N + (20 / N - 0.1 / N) * i / (N - 1)
    if kind == "reverse-diffusion":
        return 2 - math.sqrt(1 - beta), beta, math.sqrt(beta)
    return 1 / math.sqrt(1 - beta), beta / math.sqrt(1 - beta), math.sqrt(beta)


@pytest.mark.parametrize("flow", [False, True])
@pytest.mark.parametrize("kind", ["euler-maruyama", "reverse-diffusion", "ancestral"])
@pytest.mark.parametrize("name", SDES)
def test_unit_inputs_read_out_the_formula(name, kind, flow):
    sde = SDES[name]
    if kind == "ancestral" and (flow or name == "sub-vp"):
        with pytest.raises(ValueError, match="kind must be"):
            sde.predictor(kind, N, probability_flow=flow)
        return
    table = sde.predictor(kind, N, probability_flow=flow)
    zero, one = torch.zeros(N, 1, dtype=torch.float64), torch.ones(N, 1, dtype=torch.float64)
    steps = torch.arange(N)
    found = [
        diffusion_step(x, score, table, noise=z, step=steps)[0][:, 0]
        for x, score, z in ((one, zero, zero), (zero, one, zero), (zero, zero, one))
    ]
    wanted = torch.tensor([formula(sde, kind, k) for k in range(N)], dtype=torch.float64)
    if flow:
        wanted *= torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
    wanted[-1, 2] = 0  # the mean
    assert_close(torch.stack(found, 1), wanted, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", SDES)
def test_marginals_solve_the_equations_of_their_moments(name):
    """m' = f m and (std^2)' = 2 f std^2 + g^2."""
    sde, t, h = SDES[name], torch.linspace(0.05, 0.95, 19, dtype=torch.float64), 1e-5
    (m, std), (m_up, std_up), (m_down, std_down) = (sde.marginal(t + shift) for shift in (0, h, -h))
    assert_close((m_up - m_down) / (2 * h), sde.drift(t) * m, rtol=1e-6, atol=1e-9)
    rate = (std_up**2 - std_down**2) / (2 * h)
    assert_close(rate, 2 * sde.drift(t) * std**2 + sde.diffusion(t), rtol=1e-6, atol=1e-9)
    assert sde.times(5).tolist() == pytest.approx(torch.linspace(1, sde.smallest_time, 5).tolist())


def gaussian_score(sde: SDE, variance: float):
    def score(x: Tensor, t: Tensor) -> Tensor:
        mean, std = sde.marginal(t.to(x.dtype).reshape(-1, *[1] * (x.dim() - 1)))
        return -x / (mean**2 * variance + std**2)

    return score


@pytest.mark.parametrize("name", SDES)
def test_the_likelihood_of_gaussian_data_is_exact(name):
    """The flow multiplies by the ratio of the marginals' deviations; its trace is the same everywhere."""
    pytest.importorskip("torchdiffeq")
    sde, variance = SDES[name], 0.7
    x = torch.randn(4, 3, dtype=torch.float64)
    ends = torch.tensor([sde.smallest_time, 1.0], dtype=torch.float64)
    mean, std = sde.marginal(ends)
    factor = ((mean[1] ** 2 * variance + std[1] ** 2) / (mean[0] ** 2 * variance + std[0] ** 2)).sqrt()
    prior = torch.distributions.Normal(0.0, sde.prior_std)
    wanted = prior.log_prob(x * factor).sum(1) + 3 * factor.log()
    for divergence in ("exact", "hutchinson"):
        found = sde.log_prob(gaussian_score(sde, variance), x, divergence=divergence, rtol=1e-9, atol=1e-9)
        assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    back = sde.ode_sample(gaussian_score(sde, variance), x * factor, rtol=1e-9, atol=1e-9)
    assert_close(back, x, rtol=1e-6, atol=1e-6)
    if name == "vp":  # whose prior is the marginal, for variance 1
        density = torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(1)
        assert_close(sde.log_prob(gaussian_score(sde, 1.0), x, divergence="exact"), density, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "kind"), [("vp", "ancestral"), ("vp", "none"), ("ve", "reverse-diffusion"),
                                            ("ve", "ancestral"), ("sub-vp", "euler-maruyama")])  # fmt: skip
def test_sampling_gaussian_data_gives_their_variance(name, kind):
    sde = SDES[name] if name != "ve" else VESDE(0.01, 10.0)
    x = sde.prior((2000, 20), key=KEY)
    corrections = 0 if kind != "none" else 5
    x = predictor_corrector(
        sde, gaussian_score(sde, 0.5), x, steps=200, predictor=kind, corrections=corrections, key=KEY
    )
    assert float(x.var()) == pytest.approx(0.5, rel=0.12 if kind == "none" else 0.05)


def test_a_sample_does_not_depend_on_its_batch_where_norms_are_its_own():
    sde = VESDE(0.01, 5.0)
    options = {"steps": 10, "key": KEY, "per_sample": True}
    x = sde.prior((6, 3, 5), key=KEY)
    whole = predictor_corrector(sde, gaussian_score(sde, 1.0), x, **options)
    part = predictor_corrector(sde, gaussian_score(sde, 1.0), x[2:4], sample_offset=2, **options)
    assert_same_bits(part, whole[2:4])
    coupled = predictor_corrector(sde, gaussian_score(sde, 1.0), x, steps=10, key=KEY)
    assert not torch.equal(coupled, whole) and coupled.isfinite().all()


def test_correcting_after_predicting_is_better_than_predicting_alone():
    """Of data of variance 0.5 in 20 steps, where the predictor is far from its limit."""
    sde, x = VESDE(0.01, 10.0), VESDE(0.01, 10.0).prior((2000, 20), key=KEY)
    errors = []
    for corrections in (0, 2):
        y = predictor_corrector(sde, gaussian_score(sde, 0.5), x, steps=20, corrections=corrections, key=KEY)
        errors.append(abs(float(y.var()) - 0.5))
    assert errors[1] < errors[0]


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match="kind must be one of .* got 'heun'"):
        VPSDE().predictor("heun", 10)
    with pytest.raises(ValueError, match="steps must be more than beta_max = 20"):
        VPSDE().predictor("ancestral", 10)
    with pytest.raises(ValueError, match="VESDE: wanted 0 < sigma_min < sigma_max"):
        VESDE(1.0, 1.0)
    with pytest.raises(ValueError, match="predictor must be one of"):
        predictor_corrector(VESDE(), lambda x, t: x, torch.zeros(1, 2), key=KEY, predictor="heun")
