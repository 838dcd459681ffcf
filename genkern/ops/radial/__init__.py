"""The radial flow: space pulled towards a centre or pushed away from it, in closed form both ways."""

from __future__ import annotations

from torch import Tensor

from .._checks import check, promote
from .._library import define_op
from . import reference

_op = define_op(
    "radial",
    reference.radial,
    schema="(Tensor x, Tensor center, Tensor raw_alpha, Tensor raw_beta, bool inverse) -> (Tensor, Tensor)",
    differentiable=("x", "center", "raw_alpha", "raw_beta"),
    wide=(1,),
)


def radial(
    x: Tensor,
    center: Tensor,
    raw_alpha: Tensor,
    raw_beta: Tensor,
    *,
    inverse: bool = False,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    r"""Moves every sample along the line to a centre by a function of its distance.

    .. math:: y = x + \beta \frac{x - x_0}{\alpha + r}, \qquad r = \lVert x - x_0 \rVert, \qquad
              \alpha = \operatorname{softplus}(\tilde\alpha), \qquad
              \beta = \operatorname{softplus}(\tilde\beta) - \alpha > -\alpha

    .. math:: \log\lvert\det J\rvert = (D - 1) \log\Bigl(1 + \frac{\beta}{\alpha + r}\Bigr)
              + \log\Bigl(1 + \frac{\alpha \beta}{(\alpha + r)^2}\Bigr)

    The inverse is the positive root of a quadratic in the distance.

    Args:
        x: input, ``[B, *]`` with ``D`` elements a sample.
        center: :math:`x_0`, ``[D]`` for all samples, or ``[B, D]``: one for each.
        raw_alpha: :math:`\tilde\alpha`, ``[]`` or ``[B]``; the width of the region that moves.
        raw_beta: :math:`\tilde\beta`, ``[]`` or ``[B]``; space is pushed away where it exceeds ``raw_alpha``.
        inverse: solve for ``x`` instead; the log-determinant changes sign.
        impl: ``"auto"``, or ``"torch"`` for the definition.

    Returns:
        ``y`` like ``x``, and ``log_det`` in nats, ``[B]``, float32 or wider.

    Raises:
        ValueError: if shapes or devices do not fit.
        TypeError: if a dtype is not float64, float32, bfloat16 or float16.

    First and second derivatives in all inputs; CPU and CUDA. Both softplus are held at 1e-12 from below, so that
    values stay finite. Rezende & Mohamed 2015 (arXiv:1505.05770), eq. 14 and appendix A.2.

    >>> y, log_det = radial(torch.randn(8, 2), torch.zeros(2), torch.zeros(()), torch.ones(()))
    >>> log_det.shape
    torch.Size([8])
    """
    x, center, raw_alpha, raw_beta = promote("radial", x=x, center=center, raw_alpha=raw_alpha, raw_beta=raw_beta)
    check(x.dim() >= 2, "radial", "x", "[B, *]", x.shape)
    flat = x.flatten(1)
    batch, size = flat.shape
    fits = center.shape in ((size,), (batch, size))
    check(fits, "radial", "center", "[D] or [B, D]", (center.shape, "x is", x.shape))
    for name, value in (("raw_alpha", raw_alpha), ("raw_beta", raw_beta)):
        check(value.shape in ((), (batch,)), "radial", name, "[] or [B]", (value.shape, "x is", x.shape))
    if not center.dim() == raw_alpha.dim() + 1 == raw_beta.dim() + 1 == 1:
        center, raw_alpha, raw_beta = center.expand(batch, size), raw_alpha.expand(batch), raw_beta.expand(batch)
    y, log_det = _op(flat, center, raw_alpha, raw_beta, inverse, impl=impl)
    return y if x.dim() == 2 else y.view(x.shape), log_det


__all__ = ["radial"]
