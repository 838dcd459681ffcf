"""Maps that only move elements about: space to channels and back, and pictures to vectors."""

from __future__ import annotations

from torch import Tensor

from ... import ops
from .flow import Flow, no_volume


class Squeeze(Flow):
    """``[B, C, H, W] -> [B, 4C, H/2, W/2]``; see `genkern.ops.squeeze`.

    Args:
        layout: the order of the new channels: ``"channel_major"`` or ``"ordered"``.

    >>> Squeeze()(torch.randn(2, 3, 8, 8))[0].shape
    torch.Size([2, 12, 4, 4])
    """

    def __init__(self, *, layout: str = "channel_major"):
        super().__init__()
        self.layout = layout

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return ops.squeeze(x, layout=self.layout), no_volume(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return ops.unsqueeze(z, layout=self.layout), no_volume(z)


class Unsqueeze(Flow):
    """``[B, 4C, H, W] -> [B, C, 2H, 2W]``; undoes `Squeeze`.

    Args:
        layout: that of `Squeeze`.

    >>> Unsqueeze()(torch.randn(2, 12, 4, 4))[0].shape
    torch.Size([2, 3, 8, 8])
    """

    def __init__(self, *, layout: str = "channel_major"):
        super().__init__()
        self.layout = layout

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return ops.unsqueeze(x, layout=self.layout), no_volume(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return ops.squeeze(z, layout=self.layout), no_volume(z)


class Flatten(Flow):
    """``[B, *shape] -> [B, D]``.

    Args:
        shape: of one sample, for the way back.

    >>> Flatten((3, 8, 8))(torch.randn(2, 3, 8, 8))[0].shape
    torch.Size([2, 192])
    """

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x.flatten(1), no_volume(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return z.unflatten(1, self.shape), no_volume(z)

    def extra_repr(self) -> str:
        return f"{self.shape}"
