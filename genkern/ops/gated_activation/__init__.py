"""The gated activation of PixelCNN and WaveNet, with everything that is added before it, in one pass."""

from __future__ import annotations

import torch
from torch import Tensor

from .._checks import check, promote
from .._library import define_op
from . import reference

_op = define_op(
    "gated_activation",
    reference.gated_activation,
    schema="(Tensor x, Tensor bias, Tensor condition, Tensor link) -> Tensor",
    differentiable=("x", "bias", "condition", "link"),
    selective=True,
)


def gated_activation(
    x: Tensor,
    *,
    bias: Tensor | None = None,
    condition: Tensor | None = None,
    link: Tensor | None = None,
    impl: str = "auto",
) -> Tensor:
    r"""One half of the channels through tanh, gated by the other half through a sigmoid.

    .. math:: y = \tanh(a) \odot \sigma(g), \qquad (a, g) = x + \mathrm{link} + \mathrm{bias} + \mathrm{condition}

    Args:
        x: ``[B, 2C, *]``, usually the output of a convolution; ``a`` is the first half of the channels.
        bias: ``[2C]``.
        condition: a term of each sample, as of its class, ``[B, 2C]``; broadcast over the sites.
        link: a term of each site, as from the vertical stack, of the shape of ``x``.
        impl: ``"auto"``, or ``"torch"`` for the definition.

    Returns:
        ``y``, ``[B, C, *]``.

    Raises:
        ValueError: if shapes or devices do not fit.
        TypeError: if a dtype is not float64, float32, bfloat16 or float16.

    First and second derivatives in all terms, each at a cost only where it is wanted; CPU and CUDA. Dtypes are
    promoted as in PyTorch. Nothing is saved but the inputs.
    van den Oord et al. 2016 (arXiv:1606.05328), eq. 2 and 4.

    >>> gated_activation(torch.randn(8, 64, 16, 16), bias=torch.zeros(64)).shape
    torch.Size([8, 32, 16, 16])
    """
    given = {"bias": bias, "condition": condition, "link": link}
    x, *terms = promote("gated_activation", x=x, **{k: v for k, v in given.items() if v is not None})
    shape = x.shape
    check(x.dim() >= 2 and shape[1] % 2 == 0 and shape[1] > 0, "gated_activation", "x", "[B, 2C, *]", shape)
    found = dict(zip((k for k, v in given.items() if v is not None), terms, strict=True))
    wanted = {"bias": shape[1:2], "condition": shape[:2], "link": shape}
    for name, term in found.items():
        check(
            term.shape == wanted[name], "gated_activation", name, f"{list(wanted[name])}", (term.shape, "x is", shape)
        )
    if "condition" in found and "link" not in found and shape[2:].numel() == 1:  # a term of each site
        found["link"] = found.pop("condition").reshape(shape)
    absent = x.new_empty(0)
    x, link = _in_one_order(x, found.get("link", absent))
    return _op(x, found.get("bias", absent), found.get("condition", absent), link, impl=impl)


def _in_one_order(x: Tensor, link: Tensor) -> tuple[Tensor, Tensor]:
    """Contiguous, or channels-last where runs of channels fill a vector: so is the output."""
    if x.dim() in (4, 5) and x.shape[1] >= 32 and not x.is_contiguous():
        order = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
        if x.is_contiguous(memory_format=order):
            return x, link.contiguous(memory_format=order) if link.dim() > 1 else link
    return x.contiguous(), link.contiguous()


__all__ = ["gated_activation"]
