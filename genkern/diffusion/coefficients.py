r"""Rows of coefficients for `genkern.ops.diffusion_step`, one function for each sampler, in float64.

Arguments are floats or tensors of one shape ``[*]``; rows come out as ``[*, 9]``, float64, on the device of the
arguments. A process is given by the scale of the signal and of the noise, :math:`x_t = \alpha_t x_0 + \sigma_t
\epsilon`: for :math:`\bar\alpha` they are its root and that of the rest (`of_alpha_bar`), for a process that is never
scaled down :math:`\alpha = 1`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops._checks import check
from ..ops.diffusion_step import COLUMNS

Number = float | Tensor
PREDICTIONS = ("epsilon", "sample", "v_prediction", "score")
VARIANCES = (
    "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range",
)  # fmt: skip


def _float64(*numbers: Number) -> list[Tensor]:
    device = next((n.device for n in numbers if isinstance(n, Tensor)), None)
    made = [torch.as_tensor(n, dtype=torch.float64, device=device) for n in numbers]
    return list(torch.broadcast_tensors(*made))


def row(**columns: Number) -> Tensor:
    """A row, or rows, with the named columns and 0 elsewhere.

    >>> row(x=1.0, noise=2.0)
    tensor([0., 0., 1., 0., 0., 0., 2., 0., 0.], dtype=torch.float64)
    """
    unknown = set(columns) - set(COLUMNS)
    check(not unknown, "row", "columns", f"among {COLUMNS}", sorted(unknown))
    given = dict(zip(columns, _float64(*columns.values()), strict=True))
    zero = torch.zeros_like(next(iter(given.values())))
    return torch.stack([given.get(name, zero) for name in COLUMNS], -1)


def of_alpha_bar(alpha_bar: Number) -> tuple[Tensor, Tensor]:
    r""":math:`(\alpha, \sigma) = (\sqrt{\bar\alpha}, \sqrt{1 - \bar\alpha})`."""
    (alpha_bar,) = _float64(alpha_bar)
    return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()


def denoised(prediction: str, alpha: Number, sigma: Number) -> tuple[Tensor, Tensor]:
    r"""The data in a model's output: :math:`(a, b)` of :math:`\hat x_0 = a x + b o`.

    ``"epsilon"``: :math:`(x - \sigma o) / \alpha`; ``"sample"``: :math:`o`; ``"v_prediction"``, of
    :math:`v = \alpha \epsilon - \sigma x_0`: :math:`(\alpha x - \sigma o) / (\alpha^2 + \sigma^2)`; ``"score"``:
    :math:`(x + \sigma^2 o) / \alpha`.
    """
    check(prediction in PREDICTIONS, "denoised", "prediction", f"one of {PREDICTIONS}", repr(prediction))
    alpha, sigma = _float64(alpha, sigma)
    if prediction == "epsilon":
        return 1 / alpha, -sigma / alpha
    if prediction == "score":
        return 1 / alpha, sigma**2 / alpha
    if prediction == "sample":
        return torch.zeros_like(alpha), torch.ones_like(alpha)
    power = alpha**2 + sigma**2
    return alpha / power, -sigma / power


def denoised_at(prediction: str, sigma: Number) -> tuple[Tensor, Tensor]:
    r"""`denoised` of a process that is never scaled down, :math:`x = x_0 + \sigma \epsilon`.

    Of ``"v_prediction"`` the model is one of the scaled process, which reads :math:`x / \sqrt{1 + \sigma^2}`.
    """
    (sigma,) = _float64(sigma)
    if prediction != "v_prediction":
        return denoised(prediction, torch.ones_like(sigma), sigma)
    alpha = (1 + sigma**2).rsqrt()
    of_x, of_output = denoised(prediction, alpha, sigma * alpha)
    return alpha * of_x, of_output


def edm_denoised(sigma: Number, sigma_data: float = 0.5, prediction: str = "epsilon") -> tuple[Tensor, Tensor]:
    r""":math:`(c_{skip}, c_{out})` of EDM's preconditioning; the model itself reads :math:`c_{in} x`.

    Karras et al. 2022 (arXiv:2206.00364), table 1. ``"v_prediction"`` turns the sign of :math:`c_{out}`.
    """
    check(prediction in ("epsilon", "v_prediction"), "edm_denoised", "prediction", "'epsilon' or 'v_prediction'",
          repr(prediction))  # fmt: skip
    (sigma,) = _float64(sigma)
    power = sigma**2 + sigma_data**2
    sign = 1 if prediction == "epsilon" else -1
    return sigma_data**2 / power, sign * sigma * sigma_data / power.sqrt()


def noise_in(prediction: str, alpha: Number, sigma: Number) -> tuple[Tensor, Tensor]:
    r"""The noise in an output: :math:`(a, b)` of :math:`\hat\epsilon = (x - \alpha \hat x_0) / \sigma = a x + b o`.

    0 where there is no noise.
    """
    alpha, sigma = _float64(alpha, sigma)
    if prediction == "epsilon":
        return torch.zeros_like(alpha), torch.ones_like(alpha)
    if prediction == "score":
        return torch.zeros_like(alpha), -sigma
    of_x, of_output = denoised(prediction, alpha, sigma)
    some = sigma > 0
    safe = torch.where(some, sigma, 1.0)
    return torch.where(some, (1 - alpha * of_x) / safe, 0.0), torch.where(some, -alpha * of_output / safe, 0.0)


def ddpm(
    alpha_bar: Number, alpha_bar_prev: Number, prediction: str = "epsilon", variance: str = "fixed_small"
) -> Tensor:
    r"""Ancestral sampling, :math:`x' = \tilde\mu(x, \hat x_0) + \sqrt{\mathrm{var}}\, z`.

    .. math:: \tilde\mu = \frac{\sqrt{\bar\alpha'}\,\beta}{1 - \bar\alpha} \hat x_0
              + \frac{\sqrt{\alpha}\,(1 - \bar\alpha')}{1 - \bar\alpha} x, \qquad
              \alpha = \bar\alpha / \bar\alpha', \quad \beta = 1 - \alpha

    Variances: ``"fixed_small"`` :math:`\tilde\beta = \beta (1 - \bar\alpha') / (1 - \bar\alpha)`, ``"fixed_large"``
    :math:`\beta` (the ``_log`` forms are the same in float64); ``"learned"``: the model's output is the logarithm;
    ``"learned_range"``: it is :math:`v` of :math:`\frac{1 + v}{2} \log \beta + \frac{1 - v}{2} \log \tilde\beta`.
    No noise where :math:`\bar\alpha' = 1`. Ho et al. 2020, eq. 6-7; Nichol & Dhariwal 2021, eq. 15.
    """
    check(variance in VARIANCES, "ddpm", "variance", f"one of {VARIANCES}", repr(variance))
    now, before = _float64(alpha_bar, alpha_bar_prev)
    beta = 1 - now / before
    small = (beta * (1 - before) / (1 - now)).clamp(min=1e-20)
    large = beta.clamp(min=1e-20)
    of_x, of_output = denoised(prediction, *of_alpha_bar(now))
    columns = {
        "x0_of_x": of_x,
        "x0_of_output": of_output,
        "x": (now / before).sqrt() * (1 - before) / (1 - now),
        "x0": before.sqrt() * beta / (1 - now),
    }
    noisy = (before < 1).double()
    if variance.startswith("fixed_small"):
        columns["noise"] = noisy * small.sqrt()
    elif variance.startswith("fixed_large"):
        columns["noise"] = noisy * large.sqrt()
    else:
        columns["noise"] = noisy
        if variance == "learned":
            columns["log_std_slope"] = torch.full_like(now, 0.5)
        else:
            columns["log_std"] = (large.log() + small.log()) / 4
            columns["log_std_slope"] = (large.log() - small.log()) / 4
    return row(**columns)


def ddim(
    alpha_bar: Number,
    alpha_bar_prev: Number,
    prediction: str = "epsilon",
    eta: float = 0.0,
    *,
    rederive: bool = True,
) -> Tensor:
    r""":math:`x' = \sqrt{\bar\alpha'} \hat x_0 + \sqrt{1 - \bar\alpha' - \sigma^2}\, \hat\epsilon + \sigma z`.

    .. math:: \sigma = \eta \sqrt{(1 - \bar\alpha') / (1 - \bar\alpha)} \sqrt{1 - \bar\alpha / \bar\alpha'}

    Args:
        eta: 0 is deterministic, 1 is DDPM (with ``rederive``).
        rederive: the noise is that which :math:`\hat x_0` leaves after clipping; False: the model's own.

    Song et al. 2021 (arXiv:2010.02502), eq. 12 and 16.
    """
    now, before = _float64(alpha_bar, alpha_bar_prev)
    std = eta * ((1 - before) / (1 - now)).sqrt() * (1 - now / before).clamp(min=0).sqrt()
    direction = (1 - before - std**2).clamp(min=0).sqrt()
    alpha, sigma = of_alpha_bar(now)
    of_x, of_output = denoised(prediction, alpha, sigma)
    if rederive:
        ratio = direction / sigma
        columns = {"x": ratio, "x0": before.sqrt() - ratio * alpha}
    else:
        noise_of_x, noise_of_output = noise_in(prediction, alpha, sigma)
        columns = {"x": direction * noise_of_x, "x0": before.sqrt(), "output": direction * noise_of_output}
    return row(x0_of_x=of_x, x0_of_output=of_output, noise=std, **columns)


def euler(sigma: Number, sigma_next: Number, of_x: Number, of_output: Number) -> Tensor:
    r"""Euler's step of :math:`dx / d\sigma = (x - \hat x_0) / \sigma`, for :math:`\hat x_0 = a x + b o` (`denoised`).

    Karras et al. 2022 (arXiv:2206.00364), algorithm 1.
    """
    sigma, sigma_next = _float64(sigma, sigma_next)
    ratio = sigma_next / sigma
    return row(x0_of_x=of_x, x0_of_output=of_output, x=ratio, x0=1 - ratio)


def churn(sigma: Number, sigma_hat: Number, s_noise: float = 1.0) -> Tensor:
    r"""Noise up to a higher level: :math:`\hat x = x + \sqrt{\hat\sigma^2 - \sigma^2}\, S_{noise} z`."""
    sigma, sigma_hat = _float64(sigma, sigma_hat)
    return row(x=torch.ones_like(sigma), noise=(sigma_hat**2 - sigma**2).clamp(min=0).sqrt() * s_noise)


def heun(sigma: Number, sigma_next: Number, of_x: Number, of_output: Number) -> Tensor:
    r"""The trapezoid after an Euler step from :math:`\sigma` to :math:`\sigma' > 0`; ``previous`` is the sample before.

    .. math:: x'' = \tfrac12 p + \left(\tfrac12 + h\right) x' - h \hat x_0', \; h = \frac{\sigma' - \sigma}{2 \sigma'}

    which is :math:`p + (\sigma' - \sigma)(d + d') / 2`, with the first slope read off :math:`x' - p`. Here
    :math:`\hat x_0' = a x' + b o'`, of the model at :math:`\sigma'`. Karras et al. 2022, algorithm 1.
    """
    sigma, sigma_next = _float64(sigma, sigma_next)
    half = (sigma_next - sigma) / (2 * sigma_next)
    return row(x0_of_x=of_x, x0_of_output=of_output, x=0.5 + half, x0=-half, previous=torch.full_like(half, 0.5))


def euler_ancestral(
    sigma: Number, sigma_next: Number, of_x: Number, of_output: Number, eta: float = 1.0, s_noise: float = 1.0
) -> Tensor:
    r"""Euler's step down to :math:`\sqrt{\sigma'^2 - \sigma_{up}^2}`, then noise up to :math:`\sigma'`.

    .. math:: \sigma_{up} = \min\left(\sigma', \eta \sqrt{\sigma'^2 (\sigma^2 - \sigma'^2) / \sigma^2}\right)
    """
    sigma, sigma_next = _float64(sigma, sigma_next)
    up = (sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2).clamp(min=0).sqrt() * eta
    up = torch.minimum(up, sigma_next)
    ratio = (sigma_next**2 - up**2).clamp(min=0).sqrt() / sigma
    return row(x0_of_x=of_x, x0_of_output=of_output, x=ratio, x0=1 - ratio, noise=up * s_noise)


def dpm_solver_pp_2m(
    alphas: tuple[Number, Number],
    sigmas: tuple[Number, Number],
    of_x: Number,
    of_output: Number,
    last: tuple[Number, Number] | None = None,
    *,
    sde: bool = False,
    solver_type: str = "midpoint",
) -> Tensor:
    r"""A step of DPM-Solver++(2M), or of its SDE; ``previous`` is the data predicted at the step before.

    .. math:: x' &= \frac{\sigma'}{\sigma} x + \alpha' (1 - e^{-h}) \left(\hat x_0 + \frac{\hat x_0 - p}{2 r}\right),
              \qquad h = \lambda' - \lambda, \quad r = h_{last} / h, \quad \lambda = \ln (\alpha / \sigma) \\
              x' &= \frac{\sigma'}{\sigma} e^{-h} x + \alpha' (1 - e^{-2h}) \left(\hat x_0 + \frac{\hat x_0 - p}{2r}
              \right) + \sigma' \sqrt{1 - e^{-2h}}\, z

    Args:
        alphas, sigmas: at this time and the next; :math:`\sigma' = 0` gives :math:`x' = \alpha' \hat x_0`.
        last: alpha and sigma of ``previous``; None: a step of first order.
        solver_type: ``"heun"`` weighs the difference by :math:`\pm (e^{-h} - 1) / h + 1` instead.

    Lu et al. 2022 (arXiv:2211.01095), algorithm 2 and appendix.
    """
    check(solver_type in ("midpoint", "heun"), "dpm_solver_pp_2m", "solver_type", "'midpoint' or 'heun'",
          repr(solver_type))  # fmt: skip
    alpha, alpha_next, sigma, sigma_next = _float64(*alphas, *sigmas)
    ends = sigma_next == 0
    safe = torch.where(ends, sigma, sigma_next)
    h = torch.log(alpha_next / safe) - torch.log(alpha / sigma)
    rest = torch.where(ends, 1.0, -torch.expm1(-(2 * h if sde else h)))  # 1 - e^-h
    columns = {"x": sigma_next / sigma * torch.where(ends, 0.0, (-h).exp() if sde else 1.0), "x0": alpha_next * rest}
    if last is not None:
        _, alpha_last, sigma_last = _float64(alpha, *last)
        h_last = torch.log(alpha / sigma) - torch.log(alpha_last / sigma_last)
        weight = rest / 2
        if solver_type == "heun":
            double = 2 * h if sde else h
            weight = 1 - rest / torch.where(double == 0, 1.0, double)
        slope = torch.where(ends, 0.0, alpha_next * weight * h / h_last)
        columns |= {"x0": columns["x0"] + slope, "previous": -slope}
    if sde:
        columns["noise"] = torch.where(ends, 0.0, sigma_next * rest.clamp(min=0).sqrt())
    return row(x0_of_x=of_x, x0_of_output=of_output, **columns)


__all__ = [
    "churn", "ddim", "ddpm", "denoised", "denoised_at", "dpm_solver_pp_2m", "edm_denoised", "euler",
    "euler_ancestral", "heun", "noise_in", "of_alpha_bar", "row",
]  # fmt: skip
