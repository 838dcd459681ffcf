"""A layer of Gaussian latents: features in, a draw and its divergence out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...ops import reparameterize


class GaussianLatent(nn.Module):
    r"""Draws latents from the Gaussian whose mean and log-variance are the two halves of the channels of its input.

    .. math:: h = (\mu, v), \qquad z = \mu + e^{v/2} \odot n, \qquad
              \mathrm{KL}\big(N(\mu, e^v) \,\|\, N(\mu', e^{v'})\big)

    The prior, where it is not the unit one, comes as features of the same kind: ``(mu', v')``. See
    `genkern.ops.reparameterize`.

    Shape: ``h``, ``[B, 2C, *]`` to ``z``, ``[B, C, *]``, and the divergence in nats, ``[B]`` (or like ``z``).

    >>> z, kl = GaussianLatent()(torch.randn(8, 32, 4, 4))
    >>> z.shape, kl.shape
    (torch.Size([8, 16, 4, 4]), torch.Size([8]))
    """

    def forward(
        self,
        h: Tensor,
        prior: Tensor | None = None,
        *,
        kl: str = "sample",
        key: Tensor | None = None,
        generator: torch.Generator | None = None,
        sample_offset: int = 0,
    ) -> tuple[Tensor, Tensor]:
        for name, features in (("h", h), ("prior", prior)):
            if features is not None and (features.dim() < 2 or features.shape[1] % 2):
                raise ValueError(f"GaussianLatent: {name} must be [B, 2C, *]; got {list(features.shape)}.")
        parameters = (*h.chunk(2, dim=1), *(() if prior is None else prior.chunk(2, dim=1)))
        return reparameterize(*parameters, kl=kl, key=key, generator=generator, sample_offset=sample_offset)
