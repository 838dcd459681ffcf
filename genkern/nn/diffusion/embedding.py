"""How a denoising network is told the noise level, and the class."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

KINDS = ("positional", "fourier")


def timestep_embedding(t: Tensor, width: int, *, max_period: float = 10000.0) -> Tensor:
    r"""Sines and cosines of a time at geometrically spaced frequencies.

    .. math:: [\sin(t \omega_i), \cos(t \omega_i)], \qquad \omega_i = P^{-i / (w/2 - 1)}, \quad i = 0 .. w/2 - 1

    Args:
        t: times, ``[B]``, integer or real.
        width: even, of the result.
        max_period: P, the longest period over :math:`2\pi`.

    Returns:
        ``[B, width]``, float32, or float64 for float64 times.

    Vaswani et al. 2017 (arXiv:1706.03762), section 3.5, as Ho et al. 2020 (arXiv:2006.11239) use it.

    >>> timestep_embedding(torch.tensor([0, 999]), 128).shape
    torch.Size([2, 128])
    """
    if width < 4 or width % 2:
        raise ValueError(f"timestep_embedding: width must be even and at least 4; got {width}.")
    t = t.to(torch.promote_types(t.dtype, torch.float32) if t.is_floating_point() else torch.float32)
    half = width // 2
    steps = torch.arange(half, dtype=t.dtype, device=t.device)
    angles = t[:, None] * torch.exp(-math.log(max_period) / (half - 1) * steps)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class TimeEmbedding(nn.Module):
    r"""The features of a time, and of a class where there are any, that every block of a network adds to its own.

    Args:
        width: of the sinusoids; the features have ``4 * width``.
        classes: how many; None: no classes. A class of its own, number ``classes``, stands for "unknown", so that one
            network is both the conditional and the unconditional one (classifier-free guidance).
        kind: ``"positional"``, fixed frequencies from 1 down (for times up to about 1000), or ``"fourier"``, random
            frequencies of standard deviation ``scale`` (for times of order 1, such as log noise levels).
        scale: of the random frequencies, in cycles.

    Ho et al. 2020 (arXiv:2006.11239), appendix B; random frequencies: Song et al. 2021 (arXiv:2011.13456), appendix C;
    the unknown class: Ho & Salimans 2022 (arXiv:2207.12598).

    >>> TimeEmbedding(32, classes=10)(torch.tensor([0, 5]), torch.tensor([3, 10])).shape
    torch.Size([2, 128])
    """

    frequencies: Tensor

    def __init__(self, width: int, *, classes: int | None = None, kind: str = "positional", scale: float = 1.0):
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"TimeEmbedding: kind must be one of {KINDS}; got {kind!r}.")
        self.width, self.kind, self.classes = width, kind, classes
        if kind == "fourier":
            self.register_buffer("frequencies", torch.randn(width // 2) * scale)
        self.first, self.second = nn.Linear(width, 4 * width), nn.Linear(4 * width, 4 * width)
        self.by_class = None if classes is None else nn.Embedding(classes + 1, 4 * width)

    def forward(self, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Times ``[B]`` and labels ``[B]`` in [0, classes] to ``[B, 4 * width]``; without labels all are unknown."""
        if self.kind == "positional":
            waves = timestep_embedding(t, self.width)
        else:
            angles = 2 * math.pi * t.to(self.frequencies.dtype)[:, None] * self.frequencies
            waves = torch.cat([angles.sin(), angles.cos()], dim=1)
        features = self.second(nn.functional.silu(self.first(waves.to(self.first.weight.dtype))))
        if self.by_class is None:
            if y is not None:
                raise ValueError("TimeEmbedding: y must be None, since there are no classes.")
            return features
        if y is None:
            y = torch.full_like(t, self.by_class.num_embeddings - 1, dtype=torch.int64)
        return features + self.by_class(y)
