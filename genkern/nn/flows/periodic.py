"""The periodic convolution: on a torus, where the Fourier transform makes of it one matrix for each frequency."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from ...ops._library import wide_dtype
from ...ops._precision import ieee_convolutions
from .conv1x1 import full_precision, widen
from .emerging import near_zero
from .flow import Flow


class PeriodicConv2d(Flow):
    r"""A ``k x k`` convolution with circular padding.

    .. math:: z_p = \sum_t W_t\, x_{(p + t) \bmod (H, W)}, \qquad
              \log\lvert\det J\rvert = \sum_f \ln\lvert\det \hat W_f\rvert, \qquad
              \hat W_{uv} = \sum_{t} W_t\, e^{2 \pi i (u t_1 / H + v t_2 / W)}

    The inverse solves with the ``C x C`` matrix of each frequency. Those of ``f`` and ``-f`` are conjugate, so half
    of them are computed. A picture may be smaller than the kernel.

    Args:
        channels: size of dimension 1 of the input.
        kernel_size: ``k``, odd.

    It starts near a random rotation of the channels. Spectrum, log-determinant and inverse are computed in float32 or
    wider, also under autocast. A matrix that is singular at some frequency has log-determinant ``-inf``, and
    `torch.linalg.solve` raises in the inverse. Hoogeboom, van den Berg & Welling 2019 (arXiv:1901.11137), section 4.

    >>> layer = PeriodicConv2d(6, 3)
    >>> z, log_det = layer(torch.randn(8, 6, 4, 4))
    """

    def __init__(self, channels: int, kernel_size: int = 3):
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"PeriodicConv2d: kernel_size must be odd and positive; got {kernel_size}.")
        weight = near_zero(channels, kernel_size)
        rotation = torch.linalg.qr(torch.randn(channels, channels, dtype=torch.float64)).Q
        weight[:, :, kernel_size // 2, kernel_size // 2] += rotation.float()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        with full_precision(x), ieee_convolutions(x):
            x = widen(x, self.weight)
            margin = self.weight.shape[-1] // 2
            z = conv2d(_wrapped(_wrapped(x, margin, 2), margin, 3), self.weight.to(x.dtype))
            return z, self.log_abs_det(*x.shape[2:]).expand(len(x))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        with full_precision(z):
            z = widen(z, self.weight)
            wide, size = wide_dtype(z.dtype), z.shape[2:]
            waves = torch.fft.rfft2(z.to(wide)).permute(2, 3, 1, 0)  # [H, W/2 + 1, C, B]
            solved = torch.linalg.solve(self.spectrum(*size).to(waves.dtype), waves)
            x = torch.fft.irfft2(solved.permute(3, 2, 0, 1), s=size)
            return x.to(z.dtype), -self.log_abs_det(*size).expand(len(z))

    def spectrum(self, height: int, width: int) -> Tensor:
        """The matrix of each frequency, complex, ``[H, W/2 + 1, C, C]``: the others are conjugates of these."""
        weight = self.weight.to(wide_dtype(self.weight.dtype))
        columns = _waves(width, weight)[: width // 2 + 1]
        complex_weight = torch.complex(weight, torch.zeros_like(weight))
        return torch.einsum("ua,vb,oiab->uvoi", _waves(height, weight), columns, complex_weight)

    def log_abs_det(self, height: int, width: int) -> Tensor:
        """The log-determinant for pictures of this size, a scalar."""
        half = torch.linalg.slogdet(self.spectrum(height, width)).logabsdet  # [H, W/2 + 1]
        # Columns 0 and, if the width is even, W/2 hold both a frequency and its opposite; all others stand for two.
        single = half[:, 0].sum() + (half[:, -1].sum() if width % 2 == 0 else 0)
        return single + 2 * half[:, 1 : (width + 1) // 2].sum()

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, {self.weight.shape[-1]}"


def _waves(size: int, weight: Tensor) -> Tensor:
    """``e^{2 pi i u t / size}`` for each frequency and each offset of a tap from the centre, ``[size, k]``."""
    kernel_size = weight.shape[-1]
    offsets = torch.arange(kernel_size, device=weight.device, dtype=torch.float64) - kernel_size // 2
    frequencies = torch.arange(size, device=weight.device, dtype=torch.float64)
    angles = (2 * math.pi / size) * (frequencies[:, None] * offsets).remainder(size)
    return torch.polar(torch.ones_like(angles), angles).to(torch.promote_types(weight.dtype, torch.complex64))


def _wrapped(x: Tensor, margin: int, dim: int) -> Tensor:
    """The picture with ``margin`` pixels of itself before and after it; more than the whole of it, if need be."""
    size = x.shape[dim]
    turns, rest = divmod(margin, size)
    pieces = [x.narrow(dim, size - rest, rest), *[x] * (2 * turns + 1), x.narrow(dim, 0, rest)]
    return torch.cat(pieces, dim)
