"""Steps of samplers by their names: a row of coefficients in float64, and `genkern.ops.diffusion_step`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..ops._checks import check
from ..ops.random import key_from
from . import coefficients
from .coefficients import Number

Step = tuple[Tensor, Tensor | None]


def thresholded_step(
    x: Tensor, model_output: Tensor, row: Tensor, *, thresholding: tuple[float, float] | None = None, **options: Any
) -> Step:
    """`genkern.ops.diffusion_step` with dynamic thresholding, whose bound depends on the data that the step predicts.

    Args:
        thresholding: ``(ratio, maximum)`` of `genkern.ops.dynamic_threshold`; it takes the place of ``clip``.
        options: see `genkern.ops.diffusion_step`.
    """
    if thresholding is None:
        return ops.diffusion_step(x, model_output, row, **options)
    guidance = {name: options[name] for name in ("unconditional", "guidance", "rescale", "step") if name in options}
    _, x0 = ops.diffusion_step(x, model_output, row, **guidance)
    assert x0 is not None
    options["threshold"] = ops.dynamic_threshold(x0, *thresholding)
    return ops.diffusion_step(x, model_output, row, **options | {"clip": None})


def ddpm_step(
    x: Tensor,
    model_output: Tensor,
    alpha_bar: Number,
    alpha_bar_prev: Number,
    *,
    prediction: str = "epsilon",
    variance: str = "fixed_small",
    **options: Any,
) -> Step:
    r"""Ancestral sampling of DDPM: a draw from :math:`p(x_{t-1} | x_t)`; see `coefficients.ddpm`.

    Args:
        x: ``[B, *]``.
        model_output: like ``x``; under a learned variance with as many channels again, the variance's.
        alpha_bar: :math:`\bar\alpha_t` of the time of ``x``: a number, or ``[B]``.
        alpha_bar_prev: :math:`\bar\alpha` of the time to go to; 1 is the data, where no noise is added.
        prediction: ``"epsilon"``, ``"sample"``, ``"v_prediction"`` or ``"score"``.
        variance: ``"fixed_small"``, ``"fixed_large"``, ``"learned"`` or ``"learned_range"``.
        options: ``clip``, ``thresholding``, guidance, the key of the noise, ``out``: see `thresholded_step`.

    Returns:
        The sample at the next time, and the data predicted.

    Ho et al. 2020 (arXiv:2006.11239), algorithm 2.

    >>> from genkern import random
    >>> from genkern.diffusion import schedules
    >>> alphas = schedules.alphas_cumprod()
    >>> x = torch.zeros(2, 3)
    >>> x, x0 = ddpm_step(x, x, alphas[[9, 0]], torch.tensor([0.99, 1]), key=random.key(0))
    >>> x[1]
    tensor([0., 0., 0.])
    """
    row = _row(coefficients.ddpm(alpha_bar, alpha_bar_prev, prediction, variance), x)
    if variance.startswith("learned"):
        check(model_output.dim() > 1 and model_output.shape[1] == 2 * x.shape[1], "ddpm_step", "model_output",
              f"of {2 * x.shape[1:2].numel()} channels", model_output.shape)  # fmt: skip
        model_output, options["log_variance"] = model_output.chunk(2, 1)
    return thresholded_step(x, model_output, row, **_with_key(x, options))


def ddim_step(
    x: Tensor,
    model_output: Tensor,
    alpha_bar: Number,
    alpha_bar_prev: Number,
    *,
    prediction: str = "epsilon",
    eta: float = 0.0,
    rederive: bool = True,
    **options: Any,
) -> Step:
    r"""A step of DDIM, deterministic for ``eta=0`` and DDPM for ``eta=1``; see `coefficients.ddim` and `ddpm_step`.

    >>> x, x0 = ddim_step(torch.ones(2, 3), torch.zeros(2, 3), 0.25, 1.0, clip=1.0)
    >>> x[0]
    tensor([1., 1., 1.])
    """
    row = _row(coefficients.ddim(alpha_bar, alpha_bar_prev, prediction, eta, rederive=rederive), x)
    return thresholded_step(x, model_output, row, **(_with_key(x, options) if eta else options))


def euler_step(
    x: Tensor, model_output: Tensor, sigma: Number, sigma_next: Number, *, prediction: str = "epsilon", **options: Any
) -> Step:
    """Euler's step of the probability flow from one noise level to the next; see `coefficients.euler`.

    ``prediction="sample"`` is a denoiser, as the models of k-diffusion and EDM are.

    >>> euler_step(torch.ones(1, 2), torch.zeros(1, 2), 2.0, 1.0, prediction="sample")[0]
    tensor([[0.5000, 0.5000]])
    """
    row = coefficients.euler(sigma, sigma_next, *coefficients.denoised_at(prediction, sigma))
    return thresholded_step(x, model_output, _row(row, x), **options)


def euler_ancestral_step(
    x: Tensor,
    model_output: Tensor,
    sigma: Number,
    sigma_next: Number,
    *,
    prediction: str = "epsilon",
    eta: float = 1.0,
    s_noise: float = 1.0,
    **options: Any,
) -> Step:
    """Euler's step below the next noise level, then noise up to it; see `coefficients.euler_ancestral`."""
    data = coefficients.denoised_at(prediction, sigma)
    row = coefficients.euler_ancestral(sigma, sigma_next, *data, eta, s_noise)
    return thresholded_step(x, model_output, _row(row, x), **_with_key(x, options))


def churn_step(x: Tensor, sigma: Number, sigma_hat: Number, *, s_noise: float = 1.0, **options: Any) -> Tensor:
    """Noise up to a higher level, before a step of EDM's stochastic sampler; see `coefficients.churn`."""
    row = _row(coefficients.churn(sigma, sigma_hat, s_noise), x)
    return ops.diffusion_step(x, x, row, return_x0=False, **_with_key(x, options))[0]


def heun_step(
    x: Tensor,
    model_output: Tensor,
    sigma: Number,
    sigma_next: Number,
    *,
    previous: Tensor | None = None,
    prediction: str = "epsilon",
    **options: Any,
) -> Step:
    """The two stages of Heun's method: Euler's step, then with ``previous``, the sample before it, the trapezoid.

    In the second stage ``x`` is what the first gave, and ``model_output`` the model's at ``sigma_next``. To
    ``sigma_next = 0`` there is only the first. See `coefficients.heun`; `churn_step` comes before both.

    >>> x, s, t = torch.ones(1, 1), 2.0, 1.0
    >>> euler, _ = heun_step(x, x / 5, s, t, prediction="sample")  # the denoiser of data of variance 1
    >>> heun_step(euler, euler / 2, s, t, previous=x, prediction="sample")[0]
    tensor([[0.6500]])
    """
    if previous is None:
        return euler_step(x, model_output, sigma, sigma_next, prediction=prediction, **options)
    row = coefficients.heun(sigma, sigma_next, *coefficients.denoised_at(prediction, sigma_next))
    return thresholded_step(x, model_output, _row(row, x), previous=previous, **options)


def dpm_solver_pp_2m_step(
    x: Tensor,
    model_output: Tensor,
    alphas: tuple[Number, Number],
    sigmas: tuple[Number, Number],
    *,
    previous: Tensor | None = None,
    last: tuple[Number, Number] | None = None,
    prediction: str = "epsilon",
    sde: bool = False,
    solver_type: str = "midpoint",
    **options: Any,
) -> Step:
    """A step of DPM-Solver++(2M), or of its SDE; see `coefficients.dpm_solver_pp_2m`.

    Args:
        alphas, sigmas: scales of signal and noise, now and at the next time.
        previous: the data that the step before predicted; ``last``: alpha and sigma there. None: first order.
    """
    check((previous is None) == (last is None), "dpm_solver_pp_2m_step", "last", "given with previous", last)
    data = coefficients.denoised(prediction, alphas[0], sigmas[0])
    row = coefficients.dpm_solver_pp_2m(alphas, sigmas, *data, last, sde=sde, solver_type=solver_type)
    options = _with_key(x, options) if sde else options
    return thresholded_step(x, model_output, _row(row, x), previous=previous, **options)


def _row(row: Tensor, x: Tensor) -> Tensor:
    return row.to(x.device, torch.float64 if x.dtype == torch.float64 else torch.float32)


def _with_key(x: Tensor, options: dict[str, Any]) -> dict[str, Any]:
    """A noisy step asked for without a source of noise takes the default generator."""
    if any(options.get(name) is not None for name in ("key", "generator", "noise")):
        return options
    return options | {"key": key_from(device=x.device)}


__all__ = [
    "churn_step", "ddim_step", "ddpm_step", "dpm_solver_pp_2m_step", "euler_ancestral_step", "euler_step", "heun_step",
    "thresholded_step",
]  # fmt: skip
