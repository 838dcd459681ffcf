"""Emerging convolutions: invertible k x k convolutions made of two autoregressive ones of opposite orders."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ... import ops
from .conv1x1 import InvertibleConv1x1, full_precision, widen
from .flow import Flow
from .sequential import FlowSequential

BOUND = 3.0  # of |ln d|: a diagonal entry lies between 1/20 and 20


class AutoregressiveConv2d(Flow):
    r"""A masked ``k x k`` convolution; see `genkern.ops.autoregressive_conv`.

    Its weight is :math:`\mathrm{diag}(d)\,(I + N)`, with :math:`\ln d = 3 \tanh(\text{log\_diagonal} / 3)`, which is
    never zero, and ``N`` what the mask leaves of ``weight`` apart from the diagonal of the centre; ``N`` alone decides
    how far the inverse amplifies. It starts near the identity.

    Args:
        channels: size of dimension 1 of the input.
        kernel_size: ``k``, odd.
        mask: ``"square"``, the taps in a quadrant before the centre; or ``"raster"``, all that are before it.
        reverse: the opposite order.

    >>> layer = AutoregressiveConv2d(6, 3)
    >>> z, log_det = layer(torch.randn(8, 6, 4, 4))
    """

    diagonal: Tensor

    def __init__(self, channels: int, kernel_size: int = 3, *, mask: str = "square", reverse: bool = False):
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"AutoregressiveConv2d: kernel_size must be odd and positive; got {kernel_size}.")
        if mask not in ("square", "raster"):
            raise ValueError(f"AutoregressiveConv2d: mask must be 'square' or 'raster'; got {mask!r}.")
        self.mask, self.reverse = mask, reverse
        self.weight = nn.Parameter(near_zero(channels, kernel_size))
        self.log_diagonal = nn.Parameter(torch.zeros(channels))
        diagonal = torch.zeros_like(self.weight, dtype=torch.bool)
        diagonal[:, :, kernel_size // 2, kernel_size // 2] = torch.eye(channels, dtype=torch.bool)
        self.register_buffer("diagonal", diagonal, persistent=False)

    def kernel(self) -> tuple[Tensor, Tensor]:
        """The convolution's weight, ``[C, C, k, k]``, and the logarithms of the diagonal of its centre, ``[C]``."""
        wide = torch.promote_types(self.log_diagonal.dtype, torch.float32)  # H W times a sum of them is the log_det
        log_diagonal = BOUND * torch.tanh(self.log_diagonal.to(wide) / BOUND)
        unit = torch.where(self.diagonal, 1, self.weight)
        scale = log_diagonal.exp().to(unit.dtype)
        return scale[:, None, None, None] * unit, log_diagonal

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._run(x, inverse=False)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._run(z, inverse=True)

    def _run(self, x: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        with full_precision(x):
            weight, log_diagonal = self.kernel()
            return ops.autoregressive_conv(
                widen(x, weight), weight, log_diagonal=log_diagonal, mask=self.mask, reverse=self.reverse,
                inverse=inverse, check_singular=False,
            )  # fmt: skip

    def extra_repr(self) -> str:
        channels, kernel_size = self.weight.shape[1:3]
        return f"{channels}, {kernel_size}, mask={self.mask!r}, reverse={self.reverse}"


class EmergingConv2d(FlowSequential):
    r"""A ``k x k`` convolution that can be undone: a 1x1 convolution, and two autoregressive ones of opposite orders.

    .. math:: z = W_2 * (W_1 * (P x)), \qquad
              \log\lvert\det J\rvert = H W \Big(\ln\lvert\det P\rvert + \sum_c \ln d_{1c} + \sum_c \ln d_{2c}\Big)

    The window of the product is ``k x k`` with the square mask, and it mixes all channels at every tap. The inverse is
    two triangular solves, one native call each, and ``P^-1``.

    Args:
        channels: size of dimension 1 of the input.
        kernel_size: ``k``, odd.
        mask: as in `AutoregressiveConv2d`.
        parameterization: of the 1x1 convolution, as in `InvertibleConv1x1`.
        actnorm: fold an `ActNorm` in front into the 1x1 convolution.

    Hoogeboom, van den Berg & Welling 2019 (arXiv:1901.11137), section 3.

    >>> layer = EmergingConv2d(6, 3)
    >>> z, log_det = layer(torch.randn(8, 6, 4, 4))
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int = 3,
        *,
        mask: str = "square",
        parameterization: str = "plu",
        actnorm: bool = False,
    ):
        super().__init__(
            InvertibleConv1x1(channels, parameterization, actnorm=actnorm),
            AutoregressiveConv2d(channels, kernel_size, mask=mask),
            AutoregressiveConv2d(channels, kernel_size, mask=mask, reverse=True),
        )


def near_zero(channels: int, kernel_size: int) -> Tensor:
    """A random kernel whose response to any wave is well below 1: with the identity it makes a stable inverse."""
    return 0.2 / (kernel_size * math.sqrt(channels)) * torch.randn(channels, channels, kernel_size, kernel_size)
