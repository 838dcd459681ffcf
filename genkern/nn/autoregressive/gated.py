"""Gated convolutional layers with a vertical and a horizontal stack: every pixel before, and no blind spot."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...ops import gated_activation
from .masked import MaskedConv2d, VerticalConv2d


def gate(x: Tensor, condition: Tensor | None = None, link: Tensor | None = None) -> Tensor:
    """`genkern.ops.gated_activation`, under a name at which tracing stops."""
    return gated_activation(x, condition=condition, link=link)


torch.fx.wrap("gate")


class GatedMaskedConv2d(nn.Module):
    r"""One layer of Gated PixelCNN (figure 2): a vertical and a horizontal stack of gated convolutions.

    .. math::
        v' &= g(W_v * v + V_v c), \qquad g(a, b) = \tanh(a) \odot \sigma(b) \\
        h' &= h + W_r\, o, \qquad s = W_s\, o, \qquad o = g(W_h * h + W_l (W_v * v) + V_h c)

    The link ``W_l`` takes the vertical stack before its gate; nothing goes from the horizontal stack to the vertical
    one. With sub-pixels, all that touches the horizontal stack is masked between them.

    Args:
        in_channels: of ``v`` and ``h``: the picture's, in the first layer.
        channels: of what comes out.
        kernel_size: odd.
        first: the first layer: the horizontal stack leaves out the pixel itself, and has no residual.
        last: the last layer: only the skip connection is used, so that there are no weights for ``v'`` and ``h'``.
        condition: size of the conditioning vector, if there is one.
        sub_pixels, layout: see `MaskedConv2d`.

    van den Oord et al. 2016 (arXiv:1606.05328), section 2.

    >>> layer = GatedMaskedConv2d(1, 8, 7, first=True)
    >>> x = torch.randn(2, 1, 8, 8)
    >>> v, h, skip = layer(x, x)
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel_size: int,
        *,
        first: bool = False,
        last: bool = False,
        condition: int | None = None,
        sub_pixels: int = 1,
        layout: str = "contiguous",
    ):
        super().__init__()
        if not first and in_channels != channels:
            raise ValueError(f"GatedMaskedConv2d: in_channels must be channels = {channels}; got {in_channels}.")
        self.first, self.last = first, last
        masks: dict[str, Any] = {"sub_pixels": sub_pixels, "layout": layout}
        self.vertical = VerticalConv2d(in_channels, 2 * channels, kernel_size, strict=first)
        self.link = nn.Conv2d(2 * channels, 2 * channels, 1)
        size, mask = (1, kernel_size), "A" if first else "B"
        self.horizontal = MaskedConv2d(in_channels, 2 * channels, size, mask=mask, out_parts=2, bias=False, **masks)
        parts = 1 if last else 2  # skip, and residual
        self.mix = MaskedConv2d(channels, parts * channels, 1, mask="B", out_parts=parts, **masks)
        self.by_class_v = nn.Linear(condition, 2 * channels, bias=False) if condition and not last else None
        self.by_class_h = nn.Linear(condition, 2 * channels, bias=False) if condition else None

    def forward(self, v: Tensor, h: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Both stacks and the skip connection, ``[B, channels, H, W]`` each; of the last layer, the skip alone."""
        term_v = None if self.by_class_v is None else self.by_class_v(condition)
        term_h = None if self.by_class_h is None else self.by_class_h(condition)
        raw = self.vertical(v)
        out = self.mix(gate(self.horizontal(h), term_h, self.link(raw)))
        if self.last:
            return v, h, out
        skip, residual = out.chunk(2, dim=1)
        return gate(raw, term_v), residual if self.first else h + residual, skip
