"""Scalings around a denoising network that keep its input, output and training target at unit variance."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class EDMPreconditioning(nn.Module):
    r"""A denoiser: the expected data given noisy data, :math:`D(x; \sigma) \approx \mathbb{E}[x_0 \mid x]`.

    .. math:: D(x; \sigma) = c_\text{skip}\, x + c_\text{out}\, F(c_\text{in}\, x, c_\text{noise}), \qquad
              c_\text{skip} = \frac{\sigma_d^2}{\sigma^2 + \sigma_d^2}, \quad
              c_\text{out} = \frac{\sigma \sigma_d}{\sqrt{\sigma^2 + \sigma_d^2}}, \quad
              c_\text{in} = \frac{1}{\sqrt{\sigma^2 + \sigma_d^2}}, \quad c_\text{noise} = \tfrac14 \ln \sigma

    Args:
        network: F, called as ``network(x, t, y)``, such as a `UNet`.
        sigma_data: :math:`\sigma_d`, the standard deviation of the data.

    Karras et al. 2022 (arXiv:2206.00364), table 1 and equation 7.

    >>> from genkern.nn import ResidualMLP
    >>> denoiser = EDMPreconditioning(ResidualMLP((2,), hidden=16, embedding="fourier"))
    >>> denoiser(torch.randn(8, 2), torch.full((8,), 80.0)).shape
    torch.Size([8, 2])
    """

    def __init__(self, network: nn.Module, *, sigma_data: float = 0.5):
        super().__init__()
        if not sigma_data > 0:
            raise ValueError(f"EDMPreconditioning: sigma_data must be positive; got {sigma_data}.")
        self.network, self.sigma_data = network, sigma_data

    def forward(self, x: Tensor, sigma: Tensor, y: Tensor | None = None) -> Tensor:
        """Noisy data ``[B, *]``, noise levels ``[B]`` and labels ``[B]`` to the denoised data."""
        data = self.sigma_data
        column = sigma.to(x.dtype).reshape(-1, *[1] * (x.dim() - 1))
        total = torch.hypot(column, torch.full_like(column, data))
        out = self.network(x / total, sigma.log() / 4, y)
        return x * (data / total).square() + out * (column * data / total)

    def weight(self, sigma: Tensor) -> Tensor:
        r""":math:`1 / c_\text{out}^2`, under which the loss at every noise level starts at one."""
        return (sigma.square() + self.sigma_data**2) / (sigma * self.sigma_data).square()
