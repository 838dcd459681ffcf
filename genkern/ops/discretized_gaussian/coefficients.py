"""What a term of the variational bound needs of a schedule: a table of eight numbers for each step."""

from __future__ import annotations

import torch
from torch import Tensor

from .._checks import check, check_floating

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
VARIANCE_TYPES = ("fixed_small", "fixed_large", "learned", "learned_range")


def vlb_coefficients(
    alphas_cumprod: Tensor, *, prediction_type: str = "epsilon", variance_type: str = "fixed_small"
) -> Tensor:
    r"""The table that `vlb_term` reads, of a discrete variance-preserving schedule.

    .. math:: \beta_t = 1 - \frac{\bar\alpha_t}{\bar\alpha_{t-1}}, \quad
              \tilde\beta_t = \frac{1 - \bar\alpha_{t-1}}{1 - \bar\alpha_t} \beta_t, \quad
              \tilde\mu = \frac{\sqrt{\bar\alpha_{t-1}} \beta_t}{1 - \bar\alpha_t} x_0
                        + \frac{\sqrt{\alpha_t} (1 - \bar\alpha_{t-1})}{1 - \bar\alpha_t} x_t

    A strided schedule is that of its own :math:`\bar\alpha`, of the steps that are kept.

    Args:
        alphas_cumprod: :math:`\bar\alpha`, ``[T]``, best in float64, decreasing; step 0 is the decoder's.
        prediction_type: of the network: ``"epsilon"``, ``"v_prediction"`` or ``"sample"``.
        variance_type: of the model: ``"fixed_small"`` (:math:`\tilde\beta`, that of step 1 at step 0),
            ``"fixed_large"`` (:math:`\beta`, at step 0 as ``"fixed_small"``), ``"learned"`` (the network's output is
            its logarithm) or ``"learned_range"`` (the output interpolates between the logarithms of both).

    Returns:
        ``[T, 8]``, float64: rounded once, where it is used.

    Raises:
        ValueError, TypeError: if an argument cannot be used.

    Nichol & Dhariwal 2021 (arXiv:2102.09672), eq. 8-15.

    >>> alphas_cumprod = torch.linspace(0.999, 0.01, 10, dtype=torch.float64)
    >>> vlb_coefficients(alphas_cumprod).shape
    torch.Size([10, 8])
    """
    function = "vlb_coefficients"
    fits = isinstance(alphas_cumprod, Tensor) and alphas_cumprod.dim() == 1 and len(alphas_cumprod) >= 2
    came = getattr(alphas_cumprod, "shape", type(alphas_cumprod).__name__)
    check(fits, function, "alphas_cumprod", "a tensor [T], T >= 2", came)
    check_floating(function, "alphas_cumprod", alphas_cumprod)
    for argument, value, known in (
        ("prediction_type", prediction_type, PREDICTION_TYPES),
        ("variance_type", variance_type, VARIANCE_TYPES),
    ):
        check(value in known, function, argument, f"one of {known}", repr(value))
    now = alphas_cumprod.to(torch.float64)
    before = torch.cat([torch.ones_like(now[:1]), now[:-1]])
    alphas, zero, one = now / before, torch.zeros_like(now), torch.ones_like(now)
    betas = 1 - alphas
    small = (1 - before) / (1 - now) * betas
    log_small = torch.cat([small[1:2], small[1:]]).log()
    log_large = betas.log()

    of_x_t, of_output = {
        "epsilon": (now.rsqrt(), -(1 / now - 1).sqrt()),
        "v_prediction": (now.sqrt(), -(1 - now).sqrt()),
        "sample": (zero, one),
    }[prediction_type]
    clipped_large = torch.cat([log_small[:1], log_large[1:]])
    low, high = {
        "fixed_small": (log_small, log_small),
        "fixed_large": (clipped_large, clipped_large),
        "learned": (-one, one),
        "learned_range": (log_small, log_large),
    }[variance_type]
    mean_x0 = before.sqrt() * betas / (1 - now)
    mean_x_t = alphas.sqrt() * (1 - before) / (1 - now)
    decoder = torch.cat([one[:1], zero[1:]])
    return torch.stack([of_x_t, of_output, mean_x0, mean_x_t, log_small, low, high, decoder], dim=1)
