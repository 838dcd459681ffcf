"""Noise schedules: tables in float64, on the CPU; whoever uses one rounds it once.

In float32 the running product of ``1 - beta`` alone costs ``1 - alphas_cumprod`` four of its seven digits at the first
timesteps, and with them every coefficient of a step there.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..ops._checks import check

BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "cosine", "sigmoid")
SPACINGS = ("linspace", "leading", "trailing")


def betas(
    schedule: str = "linear", num_train_timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02
) -> Tensor:
    r"""Variances of the forward process :math:`q(x_t | x_{t-1}) = \mathcal{N}(\sqrt{1 - \beta_t}\, x_{t-1}, \beta_t)`.

    Args:
        schedule: ``"linear"`` (Ho et al. 2020); ``"scaled_linear"``, linear in the square roots (latent diffusion);
            ``"cosine"`` or ``"squaredcos_cap_v2"`` (Nichol & Dhariwal 2021, eq. 17, :math:`\beta \le 0.999`);
            ``"sigmoid"`` (GeoDiff). The last two but ``"sigmoid"`` do not look at the ends.
        num_train_timesteps: :math:`T`.
        beta_start, beta_end: :math:`\beta_1` and :math:`\beta_T`.

    Returns:
        ``[T]``, float64.

    >>> betas("linear", 1000)[[0, -1]]
    tensor([0.0001, 0.0200], dtype=torch.float64)
    """
    check(schedule in BETA_SCHEDULES, "betas", "schedule", f"one of {BETA_SCHEDULES}", repr(schedule))
    check(num_train_timesteps >= 1, "betas", "num_train_timesteps", "at least 1", num_train_timesteps)
    steps = num_train_timesteps
    if schedule in ("squaredcos_cap_v2", "cosine"):
        bar = [math.cos((i / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(steps + 1)]
        return torch.tensor([min(1 - bar[i + 1] / bar[i], 0.999) for i in range(steps)], dtype=torch.float64)
    check(
        0 < beta_start <= beta_end < 1, "betas", "beta_start, beta_end", "in (0, 1), in order", (beta_start, beta_end)
    )
    if schedule == "scaled_linear":
        return torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float64) ** 2
    if schedule == "sigmoid":
        return torch.linspace(-6, 6, steps, dtype=torch.float64).sigmoid() * (beta_end - beta_start) + beta_start
    return torch.linspace(beta_start, beta_end, steps, dtype=torch.float64)


def alphas_cumprod(
    schedule: str = "linear",
    num_train_timesteps: int = 1000,
    beta_start: float = 1e-4,
    beta_end: float = 0.02,
    *,
    rescale_zero_snr: bool = False,
) -> Tensor:
    r"""Signal power :math:`\bar\alpha_t = \prod_{s \le t} (1 - \beta_s)` of :math:`q(x_t | x_0)`; see `betas`.

    Args:
        rescale_zero_snr: shifted and scaled so that nothing of the signal is left at the last timestep
            (`zero_terminal_snr`).

    Returns:
        ``[T]``, float64; index 0 is the first, least noisy timestep.

    >>> alphas_cumprod("cosine", 4, rescale_zero_snr=True)[-1].item()
    0.0
    """
    table = torch.cumprod(1 - betas(schedule, num_train_timesteps, beta_start, beta_end), 0)
    return zero_terminal_snr(table) if rescale_zero_snr else table


def zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    r""":math:`\sqrt{\bar\alpha}` shifted so that the last is 0, and scaled so that the first stays.

    A model of noise alone divides by :math:`\sqrt{\bar\alpha_T} = 0` there: predict ``v`` or the sample.
    Lin et al. 2024 (arXiv:2305.08891), algorithm 1.
    """
    root = alphas_cumprod.double().sqrt()
    if len(root) == 1:
        return torch.zeros_like(root)
    return ((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2


def betas_of(alphas_cumprod: Tensor) -> Tensor:
    r""":math:`\beta_t = 1 - \bar\alpha_t / \bar\alpha_{t-1}`, with :math:`\bar\alpha_{-1} = 1`."""
    before = torch.cat([alphas_cumprod.new_ones(1), alphas_cumprod[:-1]])
    return 1 - alphas_cumprod / before


def sigmas_of(alphas_cumprod: Tensor) -> Tensor:
    r"""Noise over signal :math:`\sigma_t = \sqrt{(1 - \bar\alpha_t) / \bar\alpha_t}`.

    Infinite where the signal is 0.
    """
    return ((1 - alphas_cumprod) / alphas_cumprod).sqrt()


def alphas_cumprod_of(sigmas: Tensor) -> Tensor:
    r"""The inverse of `sigmas_of`: :math:`\bar\alpha = 1 / (1 + \sigma^2)`."""
    return 1 / (1 + sigmas.double() ** 2)


def karras_sigmas(
    num_inference_steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> Tensor:
    r"""Noise levels, evenly spaced in :math:`\sigma^{1/\rho}` from largest to smallest; without the final 0.

    Karras et al. 2022 (arXiv:2206.00364), eq. 5.

    >>> karras_sigmas(3).tolist()
    [80.0, 2.515..., 0.002...]
    """
    _check_sigmas("karras_sigmas", num_inference_steps, sigma_min, sigma_max)
    ramp = torch.linspace(0, 1, num_inference_steps, dtype=torch.float64)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return (high + ramp * (low - high)) ** rho


def exponential_sigmas(num_inference_steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0) -> Tensor:
    """Noise levels in geometric progression, from largest to smallest; without the final 0.

    >>> exponential_sigmas(3, 0.01, 1.0)
    tensor([1.0000, 0.1000, 0.0100], dtype=torch.float64)
    """
    _check_sigmas("exponential_sigmas", num_inference_steps, sigma_min, sigma_max)
    return torch.linspace(math.log(sigma_max), math.log(sigma_min), num_inference_steps, dtype=torch.float64).exp()


def timesteps(spacing: str, num_inference_steps: int, num_train_timesteps: int = 1000, steps_offset: int = 0) -> Tensor:
    """Some of the training timesteps, from noisiest to cleanest.

    Args:
        spacing: ``"linspace"`` (both ends, rounded), ``"leading"`` (multiples of ``T // n``, plus the offset) or
            ``"trailing"`` (counted down from the end); Lin et al. 2024, table 2.

    Returns:
        ``[num_inference_steps]``, int64.

    >>> timesteps("leading", 4), timesteps("trailing", 4)
    (tensor([750, 500, 250,   0]), tensor([999, 749, 499, 249]))
    """
    check(spacing in SPACINGS, "timesteps", "spacing", f"one of {SPACINGS}", repr(spacing))
    fits = 1 <= num_inference_steps <= num_train_timesteps
    check(fits, "timesteps", "num_inference_steps", f"in [1, {num_train_timesteps}]", num_inference_steps)
    if spacing == "linspace":
        even = torch.linspace(0, num_train_timesteps - 1, num_inference_steps, dtype=torch.float64)
        return even.round().long().flip(0)
    if spacing == "leading":
        stride = num_train_timesteps // num_inference_steps
        return (torch.arange(num_inference_steps) * stride).flip(0) + steps_offset
    down = num_train_timesteps - torch.arange(num_inference_steps) * (num_train_timesteps / num_inference_steps)
    return down.double().round().long() - 1


def sigma_to_timestep(sigmas: Tensor, table: Tensor) -> Tensor:
    """Fractional training timesteps at which noise levels lie, linear in their logarithm between entries of a table.

    Args:
        sigmas: any levels.
        table: ``[T]``, rising.
    """
    levels, log_table = sigmas.double().clamp(min=1e-10).log(), table.double().log()
    low = (torch.searchsorted(log_table, levels, right=True) - 1).clamp(0, len(table) - 2)
    weight = ((levels - log_table[low]) / (log_table[low + 1] - log_table[low])).clamp(0, 1)
    return low + weight


def _check_sigmas(function: str, steps: int, sigma_min: float, sigma_max: float) -> None:
    check(steps >= 1, function, "num_inference_steps", "at least 1", steps)
    check(0 < sigma_min <= sigma_max, function, "sigma_min, sigma_max", "positive, in order", (sigma_min, sigma_max))


__all__ = [
    "alphas_cumprod",
    "alphas_cumprod_of",
    "betas",
    "betas_of",
    "exponential_sigmas",
    "karras_sigmas",
    "sigma_to_timestep",
    "sigmas_of",
    "timesteps",
    "zero_terminal_snr",
]
