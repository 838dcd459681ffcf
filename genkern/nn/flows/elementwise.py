"""Elementwise transforms: invertible maps of one number each, whose parameters a network or a table gives.

An elementwise transform is any object with an attribute ``parameters``, the number P of raw parameters of an element,
and a call ``transform(x, params, inverse=False) -> (y, log_det)`` with ``x`` ``[B, D]``, ``params`` ``[B, P * D]``,
parameters first (parameter p of element d is ``params[:, p * D + d]``), and ``log_det`` ``[B]``.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ... import ops


class ElementwiseTransform(Protocol):
    """What couplings and autoregressive flows ask of the map that they drive: `AffineTransform` and its like."""

    parameters: int  # raw numbers for each element

    def __call__(self, x: Tensor, params: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]: ...


def check_parameters(transform: ElementwiseTransform, x: Tensor, params: Tensor) -> None:
    """Every element has its parameters: the operations would take fewer for those of the last elements alone."""
    wanted = transform.parameters * x.shape[1]
    if params.shape[1] != wanted:
        each = f"{transform.parameters} for each of {x.shape[1]} elements"
        raise ValueError(
            f"{type(transform).__name__}: params must have {wanted} channels, {each}; got {list(params.shape)}."
        )


class AffineTransform:
    r"""``y = e^l x + t`` with raw parameters ``(s, t)``, scale first; see `genkern.ops.affine_coupling`.

    Args:
        scale: ``"exp"``, :math:`l = s`; ``"tanh"``, :math:`l = c \tanh(s / c)`; or ``"sigmoid"``,
            :math:`l = \log \sigma(s + 2)`.
        bound: ``c``, the largest absolute log-scale of ``"tanh"``.
        standardize: the other way round, ``y = (x - t) e^{-l}``: then ``t`` and ``e^l`` are the mean and the standard
            deviation of ``x``, as in Papamakarios et al. 2017 (arXiv:1705.07057), eq. 4.

    >>> z, log_det = AffineTransform("exp")(torch.randn(8, 3), torch.zeros(8, 6))
    """

    parameters = 2

    def __init__(self, scale: str = "tanh", *, bound: float = 5.0, standardize: bool = False):
        self.scale, self.bound, self.standardize = scale, bound, standardize

    def __call__(self, x: Tensor, params: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
        check_parameters(self, x, params)
        return ops.affine_coupling(
            x, params, scale=self.scale, bound=self.bound, inverse=inverse is not self.standardize
        )

    def __repr__(self) -> str:
        bound = f", bound={self.bound}" if self.scale == "tanh" else ""
        return f"AffineTransform({self.scale!r}{bound}{', standardize=True' if self.standardize else ''})"


class GatedTransform:
    r"""``y = g x + (1 - g) m`` with :math:`g = \sigma(s + 2)` and raw parameters ``(s, m)``, gate first.

    The gate is near 1 for small parameters, so that a new layer changes little, and it never exceeds 1.
    Kingma et al. 2016 (arXiv:1606.04934), eq. 14.

    >>> z, log_det = GatedTransform()(torch.randn(8, 3), torch.zeros(8, 6))
    """

    parameters = 2
    scale, bound, standardize = "gated", 1.0, False

    def __call__(self, x: Tensor, params: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
        check_parameters(self, x, params)
        raw, candidate = params.to(torch.promote_types(x.dtype, params.dtype)).chunk(2, dim=1)
        shift = torch.sigmoid(-2.0 - raw) * candidate
        return ops.affine_coupling(x, torch.cat([raw, shift], dim=1), scale="sigmoid", inverse=inverse)

    def __repr__(self) -> str:
        return "GatedTransform()"
