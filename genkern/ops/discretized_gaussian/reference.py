"""Gaussians over the bins of pixels in plain PyTorch: the definition that every kernel is compared with.

Pixels are levels on [-1, 1], bins of half-width h = 1 / (levels - 1); the end levels own all that lies beyond them.
Both branches of every `where` are finite, so that derivatives of any order are.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

HALF_LN_2PI = 0.5 * math.log(2 * math.pi)
LOWEST_LOG_VARIANCE = -80.0  # keeps e^-log_variance finite
LOWEST_LOG_STD = -20.0  # a bin is then millions of standard deviations wide
FLOOR = math.log(1e-12)


def log_minus_expm1(t: Tensor) -> Tensor:
    """ln(1 - e^-t) for t >= 0, finite at 0."""
    return torch.log(-torch.expm1(-t.clamp(min=1e-30)))


def tanh_log_bin(centred: Tensor, log_std: Tensor, h: float, low: Tensor, high: Tensor) -> Tensor:
    """With Phi(u) = sigmoid(2 w(u)), w(u) = sqrt(2 / pi) (u + 0.044715 u^3); never below ln 1e-12."""
    inverse_std = torch.exp(-log_std.clamp(LOWEST_LOG_STD, 30.0))
    plus = ((centred + h) * inverse_std).clamp(-20.0, 20.0)  # beyond, all is below the floor or 1
    minus = ((centred - h) * inverse_std).clamp(-20.0, 20.0)
    inside = (plus < 20.0) & (minus > -20.0)
    width = torch.where(inside, 2 * h * inverse_std, plus - minus)
    scale, cubic = math.sqrt(8 / math.pi), 0.044715
    upper, lower = scale * (plus + cubic * plus**3), scale * (minus + cubic * minus**3)
    t = scale * width * (1 + cubic * (plus * plus + plus * minus + minus * minus))
    above = torch.where(high, torch.zeros_like(upper), logsigmoid(upper))
    below = torch.where(low, torch.zeros_like(lower), logsigmoid(-lower))
    between = torch.where(low | high, torch.zeros_like(t), log_minus_expm1(t))
    return (above + below + between).clamp(min=FLOOR)


def erfcx(x: Tensor) -> Tensor:
    """e^(x^2) erfc(x) for x >= 0; far out by its asymptotic series, whose derivatives do not cancel."""
    far = x > (100.0 if x.dtype == torch.float64 else 10.0)
    large = torch.where(far, x, torch.full_like(x, 100.0))
    y = 0.5 / (large * large)
    series = (1 - y * (1 - 3 * y * (1 - 5 * y * (1 - 7 * y)))) / (math.sqrt(math.pi) * large)
    return torch.where(far, series, torch.special.erfcx(torch.where(far, torch.zeros_like(x), x)))


def narrow_series(z: Tensor, q: Tensor) -> Tensor:
    """ln of the mean of e^(-z u - q u^2 / 2) over u in [-1/2, 1/2]: by Hermite polynomials, for z + sqrt(q) < 1/2."""
    before, now = torch.ones_like(z), z  # K_0 and K_1, with K_m+1 = z K_m - m q K_m-1
    total, factor = torch.zeros_like(z), 1.0
    for n in range(1, 6):
        before, now = now, z * now - (2 * n - 1) * q * before
        factor /= 4 * (2 * n) * (2 * n + 1)  # 1 / ((2 n + 1)! 4^n)
        total = total + factor * now
        before, now = now, z * now - 2 * n * q * before
    return torch.log1p(total)


def erf_log_bin(centred: Tensor, log_std: Tensor, h: float, low: Tensor, high: Tensor) -> Tensor:
    """By erfc, in whichever tail is small; in narrow bins by the series of the Gaussian about their centre."""
    bounded = log_std.clamp(min=LOWEST_LOG_STD)
    inverse_std = torch.exp(-bounded)
    edge = low | high
    distance, width = centred.abs(), 2 * h * inverse_std
    c = distance * inverse_std
    narrow = ~edge & (width * (c + 1) < 0.5)

    zero, one = torch.zeros_like(c), torch.ones_like(c)
    w, near = torch.where(narrow, width, zero), torch.where(narrow, c, zero)
    of_narrow = math.log(2 * h) - HALF_LN_2PI - bounded - 0.5 * near * near + narrow_series(w * near, w * w)

    # the bin is [a, b] on the side where the mean is not, or, if a < 0, holds the mean; edges have no b
    a = torch.where(low, -(centred + h), torch.where(high, centred - h, distance - h)) * inverse_std
    a = torch.where(narrow, zero, a).clamp(min=-12.0)  # beyond, 1 - Q(a) is 0
    b = torch.where(narrow, one, (distance + h) * inverse_std)
    ratio = torch.where(edge, zero, torch.exp(torch.where(narrow, -one, -c * width)))  # e^-(b^2 - a^2) / 2
    of_a, of_b = erfcx(a.abs() / math.sqrt(2)), erfcx(b.abs() / math.sqrt(2)) * ratio
    inside = a < 0
    lost = 0.5 * torch.exp(-0.5 * torch.where(inside, a, zero) ** 2) * (of_a + of_b)
    of_wide = torch.where(
        inside,
        torch.log1p(-torch.where(inside, lost, zero)),
        torch.log(0.5 * torch.where(inside, one, of_a - of_b)) - 0.5 * a * a,
    )
    return torch.where(narrow, of_narrow, of_wide)


CDFS = {"tanh": tanh_log_bin, "erf": erf_log_bin}


def log_bin(x: Tensor, mean: Tensor, log_std: Tensor, levels: int, cdf: str) -> Tensor:
    """The log-probability of each pixel."""
    h = 1 / (levels - 1)
    end = 1 - 0.255 * h  # 0.999 for 256 levels
    return CDFS[cdf](x - mean, log_std, h, x < -end, x > end)


def discretized_gaussian(x: Tensor, mean: Tensor, log_std: Tensor, levels: int, cdf: str) -> Tensor:
    return log_bin(x, mean, log_std, levels, cdf).reshape(x.shape[0], x.shape[1:].numel()).sum(1)


def vlb_term(
    x0: Tensor, x_t: Tensor, output: Tensor, variance: Tensor, coefficients: Tensor, clip: bool, levels: int, cdf: str
) -> Tensor:
    """KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)), or the decoder's -ln p(x_0 | x_1), by the columns of [B, 8]:

    x0_hat = of_x_t x_t + of_output f,   mean = mean_x0 x0_hat + mean_x_t x_t,   log variance of q,
    log variance of the model = (v + 1) / 2 high + (1 - v) / 2 low,   and whether the term is the decoder's.
    """
    columns = coefficients.t().reshape(8, -1, *(1,) * (x0.dim() - 1))
    of_x_t, of_output, mean_x0, mean_x_t, log_variance_q, low, high, decoder = columns
    x0_hat = of_x_t * x_t + of_output * output
    if clip:
        x0_hat = x0_hat.clamp(-1.0, 1.0)
    half = 0.5 * (variance + 1)
    log_variance = half * high + (1 - half) * low

    bounded = log_variance.clamp(min=LOWEST_LOG_VARIANCE)
    error = mean_x0 * (x0 - x0_hat)
    shift = log_variance_q - bounded
    kl = torch.expm1(shift) - (log_variance_q - log_variance) + error * error * torch.exp(-bounded)

    log_prob = log_bin(x0, mean_x0 * x0_hat + mean_x_t * x_t, 0.5 * log_variance, levels, cdf)
    term = torch.where(decoder != 0, -log_prob, 0.5 * kl)
    return term.reshape(x0.shape[0], x0.shape[1:].numel()).sum(1)


def vlb_term_fixed(
    x0: Tensor, x_t: Tensor, output: Tensor, coefficients: Tensor, clip: bool, levels: int, cdf: str
) -> Tensor:
    """With the low log variance of every sample."""
    return vlb_term(x0, x_t, output, x0.new_full((), -1.0), coefficients, clip, levels, cdf)
