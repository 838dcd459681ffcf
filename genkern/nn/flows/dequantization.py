"""Variational dequantisation: noise within a level that is learned, and seen by the bound that it loosens."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from ... import random
from .conditioners import Conditioned
from .coupling import AffineCoupling, checkerboard
from .flow import Flow
from .priors import StandardLogistic
from .sequential import FlowSequential


class VariationalDequantization(nn.Module):
    r"""A conditional flow :math:`q(u \mid x)` of the noise that is added to integers, :math:`u \in (0, 1)^D`.

    .. math:: \log p(x) \ge \mathbb{E}_{u \sim q(u \mid x)}\big[\log p(x + u) - \log q(u \mid x)\big], \qquad
              u = \sigma(v), \quad v = f^{-1}(\epsilon; h(x)), \quad \epsilon \sim \mathrm{Logistic}(0, 1)

    With a logistic :math:`\epsilon`, an identity :math:`f` is uniform noise: of the same key the same numbers.

    Args:
        flow: :math:`f`, from :math:`v` to :math:`\epsilon` in its density direction, with a context.
        features: :math:`h`, from ``x`` scaled to [-1, 1] to that context; None: the flow sees no context.
        levels: how many values a pixel has.

    Ho et al. 2019 (arXiv:1902.00275), section 3.1.

    >>> q = VariationalDequantization.of_pictures((3, 8, 8), 256)
    >>> u, log_q = q(torch.randint(0, 256, (4, 3, 8, 8)), key=random.key(0))
    >>> u.shape, log_q.shape
    (torch.Size([4, 3, 8, 8]), torch.Size([4]))
    """

    def __init__(self, flow: Flow, features: nn.Module | None, levels: int):
        super().__init__()
        self.flow, self.features, self.levels = flow, features, levels

    @classmethod
    def of_pictures(
        cls, shape: tuple[int, ...], levels: int, *, hidden: int = 32, couplings: int = 4
    ) -> VariationalDequantization:
        """Affine couplings with checkerboard masks, which see the features of a small convolutional network."""
        if len(shape) != 3:
            raise ValueError(f"VariationalDequantization: shape must be (channels, height, width); got {shape}.")
        channels, height, width = shape
        features = nn.Sequential(nn.Conv2d(channels, hidden, 3, padding=1), nn.ReLU(), nn.Conv2d(hidden, hidden, 1))
        layers = []
        for i in range(couplings):
            first, last = nn.Conv2d(channels, hidden, 3, padding=1), nn.Conv2d(hidden, 2 * channels, 3, padding=1)
            nn.init.zeros_(last.weight)  # uniform noise at first
            nn.init.zeros_(last.bias)  # type: ignore[arg-type]
            network = Conditioned([first, nn.ReLU(), nn.Conv2d(hidden, hidden, 1), nn.ReLU(), last], hidden, hidden)
            mask = checkerboard(channels, height, width, flip=i % 2 == 1)
            layers.append(AffineCoupling(network, scale="tanh", bound=1.0, mask=mask))
        return cls(FlowSequential(*layers), features, levels)

    def forward(
        self, x: Tensor, *, key: Tensor | None = None, sample_offset: int = 0, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, Tensor]:
        """Noise ``u`` like ``x`` in [0, 1], and ``log q(u | x)`` in nats, ``[B]``, float32 or wider."""
        if key is None:
            key = random.key_from(device=x.device)
        prior = StandardLogistic(tuple(x.shape[1:]))
        noise = prior.sample(len(x), key=key, sample_offset=sample_offset, dtype=dtype)
        v, log_det = self.flow.inverse(noise, self._context(x, dtype))
        return v.sigmoid(), prior.log_prob(noise) - log_det - _log_slope(v)

    def log_prob(self, u: Tensor, x: Tensor) -> Tensor:
        """``log q(u | x)`` of given noise in (0, 1), in nats, ``[B]``."""
        v = u.log() - torch.log1p(-u)
        noise, log_det = self.flow(v, self._context(x, u.dtype))
        return StandardLogistic(tuple(u.shape[1:])).log_prob(noise) + log_det - _log_slope(v)

    def _context(self, x: Tensor, dtype: torch.dtype) -> Tensor | None:
        return None if self.features is None else self.features(x.to(dtype) * (2 / (self.levels - 1)) - 1)


def _log_slope(v: Tensor) -> Tensor:
    """The logarithm of the volume that a sigmoid leaves, ``[B]``."""
    return (logsigmoid(v) + logsigmoid(-v)).flatten(1).sum(1)
