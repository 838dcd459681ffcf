"""The planar flow: a ridge along one direction, in closed form one way and by a monotone root the other."""

from __future__ import annotations

from torch import Tensor

from .._checks import check, promote
from .._library import define_op
from . import reference

_op = define_op(
    "planar",
    reference.planar,
    schema="(Tensor x, Tensor u, Tensor w, Tensor b, bool inverse) -> (Tensor, Tensor)",
    differentiable=("x", "u", "w", "b"),
    wide=(1,),
)


def planar(
    x: Tensor, u: Tensor, w: Tensor, b: Tensor, *, inverse: bool = False, impl: str = "auto"
) -> tuple[Tensor, Tensor]:
    r"""Moves every sample along one direction by a function of its projection on another.

    .. math:: y = x + \hat u \tanh(w^\top x + b), \qquad
              \hat u = u + (\operatorname{softplus}(-w^\top u) - 1) \frac{w}{\lVert w \rVert^2}

    .. math:: \log\lvert\det J\rvert = \log(1 + (1 - \tanh^2) \, w^\top \hat u)
              = \log(\tanh^2 + (1 - \tanh^2) \operatorname{softplus}(w^\top u))

    where :math:`\hat u` keeps :math:`w^\top \hat u > -1`, so that the map is invertible for every ``u``. The inverse is
    the root of a monotone function of one number, found to the last bit by Newton's method in a bracket.

    Args:
        x: input, ``[B, *]`` with ``D`` elements a sample.
        u: raw direction of the motion, ``[D]`` for all samples, or ``[B, D]``: one for each.
        w: normal of the planes that move together, ``[D]`` or ``[B, D]``.
        b: offset, ``[]`` or ``[B]``.
        inverse: solve for ``x`` instead; the log-determinant changes sign.
        impl: ``"auto"``, or ``"torch"`` for the definition.

    Returns:
        ``y`` like ``x``, and ``log_det`` in nats, ``[B]``, float32 or wider.

    Raises:
        ValueError: if shapes or devices do not fit.
        TypeError: if a dtype is not float64, float32, bfloat16 or float16.

    First and second derivatives in all inputs, through the inverse too; CPU and CUDA. For :math:`\lVert w \rVert^2`
    below 1e-8 the quotient is held there, and softplus in the log-determinant at 1e-20: values stay finite.
    Rezende & Mohamed 2015 (arXiv:1505.05770), eq. 10-12 and appendix A.1.

    >>> y, log_det = planar(torch.randn(8, 2), torch.randn(2), torch.randn(2), torch.zeros(()))
    >>> log_det.shape
    torch.Size([8])
    """
    x, u, w, b = promote("planar", x=x, u=u, w=w, b=b)
    check(x.dim() >= 2, "planar", "x", "[B, *]", x.shape)
    flat = x.flatten(1)
    batch, size = flat.shape
    for name, value in (("u", u), ("w", w)):
        check(value.shape in ((size,), (batch, size)), "planar", name, "[D] or [B, D]", (value.shape, "x is", x.shape))
    check(b.shape in ((), (batch,)), "planar", "b", "[] or [B]", (b.shape, "x is", x.shape))
    if not u.dim() == w.dim() == b.dim() + 1 == 1:
        u, w, b = u.expand(batch, size), w.expand(batch, size), b.expand(batch)
    y, log_det = _op(flat, u, w, b, inverse, impl=impl)
    return y if x.dim() == 2 else y.view(x.shape), log_det


__all__ = ["planar"]
