"""The loss of quantile networks: one pass over targets, quantiles and levels."""

from __future__ import annotations

from torch import Tensor

from .._checks import check, promote
from .._library import define_op
from . import reference

_op = define_op(
    "quantile_huber",
    reference.quantile_huber,
    schema="(Tensor x, Tensor q, Tensor tau, float kappa) -> Tensor",
    differentiable=("x", "q", "tau"),
    wide=(0,),
    selective=True,
)


def quantile_huber(x: Tensor, q: Tensor, tau: Tensor, *, kappa: float = 0.002, impl: str = "auto") -> Tensor:
    r"""Quantile regression, with Huber's parabola of width kappa about zero.

    .. math:: \rho_\tau(u) = \lvert \tau - \mathbb{1}\{u < 0\} \rvert \, \frac{L_\kappa(u)}{\kappa}, \qquad u = x - q,
              \qquad L_\kappa(u) = \begin{cases} u^2 / 2 & \lvert u \rvert \le \kappa \\
              \kappa (\lvert u \rvert - \kappa / 2) & \text{else} \end{cases}

    As kappa goes to 0 its minimiser in ``q`` is the quantile of ``x`` at level ``tau``.

    Args:
        x: targets, any shape.
        q: predicted quantiles, of the shape of ``x``.
        tau: levels in (0, 1), of the shape of ``x``.
        kappa: positive; 0.002 is for values in [0, 1].
        impl: ``"auto"``, or ``"torch"`` for the definition.

    Returns:
        The loss of each element, of the shape of ``x``, float32 or wider.

    Raises:
        ValueError: if shapes or devices differ, or ``kappa`` is not positive.
        TypeError: if a dtype is not float64, float32, bfloat16 or float16.

    First and second derivatives in all three, each at a cost only where it is wanted; CPU and CUDA.
    Ostrovski et al. 2018 (arXiv:1806.05575), eq. 3; Dabney et al. 2018 (arXiv:1710.10044).

    >>> import torch
    >>> quantile_huber(torch.zeros(2), torch.tensor([-1.0, 1.0]), torch.full((2,), 0.9))
    tensor([0.8991, 0.0999])
    """
    x, q, tau = promote("quantile_huber", x=x, q=q, tau=tau)
    for name, value in (("q", q), ("tau", tau)):
        check(value.shape == x.shape, "quantile_huber", name, "of the shape of x", (value.shape, "x is", x.shape))
    check(kappa > 0, "quantile_huber", "kappa", "positive", kappa)
    return _op(x.contiguous(), q.contiguous(), tau.contiguous(), float(kappa), impl=impl)


__all__ = ["quantile_huber"]
