"""Squeeze and unsqueeze: squares of sites become channels, and back. No arithmetic, one pass."""

from __future__ import annotations

from torch import Tensor

from .._checks import check, check_choice
from .._library import define_op
from . import autograd, reference

LAYOUTS = ("channel_major", "ordered")

_op = define_op(
    "squeeze",
    reference.squeeze,
    schema="(Tensor x, int factor, str layout, bool inverse) -> Tensor",
)
autograd.register_autograd(_op)


def squeeze(x: Tensor, *, factor: int = 2, layout: str = "channel_major", impl: str = "auto") -> Tensor:
    r"""Trades resolution for channels: every square of ``factor`` x ``factor`` sites becomes channels.

    .. math:: z_{k(c, i, j),\, h,\, w} = x_{c,\, f h + i,\, f w + j}

    =================== ============================== ==========================================================
    ``layout``          :math:`k(c, i, j)`
    =================== ============================== ==========================================================
    ``"channel_major"`` :math:`c f^2 + i f + j`        as `torch.nn.functional.pixel_unshuffle`; Glow
    ``"ordered"``       :math:`(i f + j) C + c`        as ``tf.nn.space_to_depth``: channels of one site adjoin
    =================== ============================== ==========================================================

    A permutation: the log-determinant is 0. Values of any dtype with elements of 1, 2, 4 or 8 bytes.

    Args:
        x: ``[B, C, H, W]``; ``factor`` divides ``H`` and ``W``.
        factor: :math:`f`.
        layout: the order of the new channels.
        impl: ``"auto"``, or ``"torch"`` for the definition.

    Returns:
        ``[B, C f^2, H / f, W / f]``, contiguous.

    Raises:
        ValueError: if sizes do not divide, or a name is not known.

    All derivatives; nothing is saved for them. CPU and CUDA.
    Dinh et al. 2017 (arXiv:1605.08803), section 3.6.

    >>> squeeze(torch.arange(4.0).reshape(1, 1, 2, 2)).flatten()
    tensor([0., 1., 2., 3.])
    """
    _check_arguments("squeeze", x, factor, layout)
    fits = x.shape[2] % factor == 0 and x.shape[3] % factor == 0
    check(fits, "squeeze", "x", f"[B, C, H, W] with H and W divisible by {factor}", x.shape)
    return autograd.call(_op, x, factor, layout, False, impl=impl)


def unsqueeze(z: Tensor, *, factor: int = 2, layout: str = "channel_major", impl: str = "auto") -> Tensor:
    r"""The inverse of `squeeze`: :math:`f^2` channels become a square of sites.

    Args:
        z: ``[B, C, H, W]``; ``factor ** 2`` divides ``C``.
        factor, layout, impl: as `squeeze`.

    Returns:
        ``[B, C / f^2, H f, W f]``, contiguous.

    Raises:
        ValueError: if sizes do not divide, or a name is not known.

    >>> x = torch.randn(2, 3, 4, 6)
    >>> torch.equal(unsqueeze(squeeze(x)), x)
    True
    """
    _check_arguments("unsqueeze", z, factor, layout, "z")
    fits = z.shape[1] % (factor * factor) == 0
    check(fits, "unsqueeze", "z", f"[B, C, H, W] with C divisible by {factor * factor}", z.shape)
    return autograd.call(_op, z, factor, layout, True, impl=impl)


def _check_arguments(function: str, x: Tensor, factor: int, layout: str, name: str = "x") -> None:
    check(isinstance(x, Tensor), function, name, "a tensor", type(x).__name__, TypeError)
    check(x.dim() == 4, function, name, "[B, C, H, W]", x.shape)
    check(x.element_size() <= 8, function, name, "of elements of at most 8 bytes", x.dtype, TypeError)
    check(isinstance(factor, int) and factor >= 1, function, "factor", "a positive int", factor)
    check_choice(function, "layout", layout, LAYOUTS)


__all__ = ["squeeze", "unsqueeze"]
