"""Invertible 1x1 convolutions: a learned linear map of the channels, the same at every position."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ... import ops
from .actnorm import ActNorm
from .flow import Flow, Inverses
from .matrices import InverseCache


class InvertibleConv1x1(Flow):
    r"""``y = W x`` at every position; see `genkern.ops.invertible_conv1x1`.

    Args:
        channels: size of dimension 1 of the input.
        parameterization: ``"plu"``, :math:`W = P L (U + \mathrm{diag}(\pm e^{d}))` with a fixed permutation and fixed
            signs, whose log-determinant is a sum; or ``"free"``, any matrix.
        actnorm: fold an `ActNorm` in front of the convolution into its weight: ``y = W (e^s x + b)``, at the price
            of the convolution alone.
        bias: learn ``y = W x + bias``; not with ``actnorm``, which has its own.

    The matrix starts as a random rotation. Kingma & Dhariwal 2018 (arXiv:1807.03039), section 3.2.

    >>> layer = InvertibleConv1x1(6)
    >>> z, log_det = layer(torch.randn(8, 6, 4, 4))
    """

    permutation: Tensor
    signs: Tensor

    def __init__(self, channels: int, parameterization: str = "plu", *, actnorm: bool = False, bias: bool = False):
        super().__init__()
        if parameterization not in ("plu", "free"):
            raise ValueError(f"InvertibleConv1x1: parameterization must be 'plu' or 'free', got {parameterization!r}.")
        if actnorm and bias:
            raise ValueError("InvertibleConv1x1: with actnorm=True the bias is ActNorm's; bias must be False.")
        self.parameterization = parameterization
        self.actnorm = ActNorm(channels) if actnorm else None
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None
        rotation = torch.linalg.qr(torch.randn(channels, channels, dtype=torch.float64)).Q.float().contiguous()
        if parameterization == "free":
            self.weight = nn.Parameter(rotation)
        else:
            self.lower, self.upper, self.log_diagonal = (
                nn.Parameter(torch.zeros(size)) for size in ((channels, channels), (channels, channels), channels)
            )
            self.register_buffer("permutation", torch.arange(channels))
            self.register_buffer("signs", torch.ones(channels))
            self.set_matrix(rotation)
        self._inverses = InverseCache()

    @torch.no_grad()
    def set_matrix(self, weight: Tensor) -> None:
        """Sets the parameters so that the matrix is ``weight``."""
        if self.parameterization == "free":
            self.weight.copy_(weight)
            return
        parts = (self.permutation, self.lower, self.upper, self.log_diagonal, self.signs)
        for part, value in zip(parts, ops.plu_factors(weight), strict=True):
            part.copy_(value)

    def matrix(self) -> Tensor:
        """``W``, without the folded ActNorm, ``[C, C]``."""
        if self.parameterization == "free":
            return self.weight
        return ops.plu_weight(*self._factors())

    def forward(
        self, x: Tensor, context: Tensor | None = None, *, log_abs_dets: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        with full_precision(x):
            if self.actnorm is not None:
                self.actnorm.observe(x)
            weight, bias, log_abs_det = self._folded(log_abs_dets)
            return ops.invertible_conv1x1(widen(x, weight), weight, bias, log_abs_det=log_abs_det)

    def inverse(
        self, z: Tensor, context: Tensor | None = None, *, inverses: Inverses | None = None
    ) -> tuple[Tensor, Tensor]:
        with full_precision(z):
            ((weight, log_abs_det),) = self._inverses(self.matrices()) if inverses is None else inverses
            bias = None if self.bias is None else -(weight @ self.bias)  # W^-1 (z - bias)
            if self.parameterization == "plu":
                log_abs_det = total(self.log_diagonal)
            if self.actnorm is not None:  # x = e^-s (W^-1 z - b)
                scale = torch.exp(-self.actnorm.log_scale)
                weight, bias = scale[:, None] * weight, -scale * self.actnorm.bias
                log_abs_det = log_abs_det + total(self.actnorm.log_scale)
            return ops.invertible_conv1x1(widen(z, weight), weight, bias, log_abs_det=-log_abs_det)

    def _folded(self, log_abs_dets: Sequence[Tensor] | None) -> tuple[Tensor, Tensor | None, Tensor]:
        """Weight, bias and ``log|det W|`` of the one convolution that the layer is."""
        norm = self.actnorm
        if self.parameterization == "plu":
            if norm is not None:
                return ops.folded_plu_weight(*self._factors(), norm.log_scale, norm.bias)
            return self.matrix(), self.bias, total(self.log_diagonal)
        value = ops.log_abs_det(self.weight) if log_abs_dets is None else log_abs_dets[0]
        if norm is None:
            return self.weight, self.bias, value
        return ops.folded_weight(self.weight, norm.log_scale, norm.bias, log_abs_det=value)

    def _factors(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        return self.permutation, self.lower, self.upper, self.log_diagonal, self.signs

    def free_weights(self) -> list[Tensor]:
        return [self.weight] if self.parameterization == "free" else []

    def matrices(self) -> list[Tensor]:
        return [self.matrix()]

    def extra_repr(self) -> str:
        size = self.weight if self.parameterization == "free" else self.lower
        return f"{len(size)}, {self.parameterization!r}"


def full_precision(x: Tensor) -> torch.autocast:
    """Off with autocast: the state of a flow keeps its precision, its networks need not."""
    return torch.autocast(x.device.type, enabled=False)


def total(log_scales: Tensor) -> Tensor:
    """Their sum, which is multiplied by the number of sites: in float32 or wider."""
    return log_scales.sum(dtype=torch.promote_types(log_scales.dtype, torch.float32))


def widen(x: Tensor, weight: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, weight.dtype))
