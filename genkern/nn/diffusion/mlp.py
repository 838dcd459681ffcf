"""A residual network for vectors, and for pictures so small that all their pixels may as well be one vector."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn.functional import dropout, silu

from .embedding import TimeEmbedding


class ResidualMLP(nn.Module):
    """Noisy vectors and the time to what the noise, the data or the score is predicted from: the same call as `UNet`.

    Args:
        shape: of a sample: ``(D,)``, or ``(C, H, W)``, which is taken for one vector.
        out_channels: size of the result's first dimension; None: as in ``shape``.
        hidden: units of a layer; the time's sinusoids are a quarter as many.
        layers: residual blocks.
        dropout: within a block.
        classes: how many labels; None: none. See `TimeEmbedding`.
        embedding: ``"positional"`` or ``"fourier"``; see `TimeEmbedding`.

    >>> ResidualMLP((2,), hidden=64)(torch.randn(8, 2), torch.arange(8)).shape
    torch.Size([8, 2])
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        out_channels: int | None = None,
        hidden: int = 256,
        layers: int = 3,
        dropout: float = 0.0,
        classes: int | None = None,
        embedding: str = "positional",
    ):
        super().__init__()
        if hidden % 8 or hidden < 16 or layers < 1:
            raise ValueError(
                "ResidualMLP: hidden must be a multiple of 8 and at least 16, with at least one layer;"
                f" got {hidden} and {layers}."
            )
        self.out_shape = (shape[0] if out_channels is None else out_channels, *shape[1:])
        self.embed = TimeEmbedding(hidden // 4, classes=classes, kind=embedding)
        self.first = nn.Linear(math.prod(shape), hidden)
        self.layers = nn.ModuleList(MLPBlock(hidden, dropout) for _ in range(layers))
        self.norm, self.last = nn.LayerNorm(hidden), nn.Linear(hidden, math.prod(self.out_shape))
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """``[B, *shape]``, times ``[B]`` and labels ``[B]`` to ``[B, out_channels, *]``."""
        time = silu(self.embed(t, y))
        h = self.first(x.flatten(1))
        for layer in self.layers:
            h = layer(h, time)
        return self.last(silu(self.norm(h))).unflatten(1, self.out_shape)


class MLPBlock(nn.Module):
    """Two linear maps with the time between them, around which the input goes."""

    def __init__(self, hidden: int, dropout: float):
        super().__init__()
        self.dropout = dropout
        self.norm, self.first = nn.LayerNorm(hidden), nn.Linear(hidden, hidden)
        self.time, self.second = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.first(silu(self.norm(x))) + self.time(time)
        return x + self.second(dropout(silu(h), self.dropout, self.training))
