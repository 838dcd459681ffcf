"""The layers of PixelRNN: LSTMs over the rows of a picture, and over its diagonals from both sides."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ... import ops
from .masked import MaskedConv2d


def state_to_state(hidden: int, taps: int) -> nn.Parameter:
    bound = 1 / math.sqrt(hidden * taps)
    return nn.Parameter(torch.empty(4 * hidden, hidden, taps).uniform_(-bound, bound))


class RowLSTM(nn.Module):
    """An LSTM from row to row, whose gates read a masked convolution of the row itself and one of the state above.

    A pixel sees itself, the pixels to its left within the kernel, and a triangle above it.

    Args:
        in_channels: multiple of ``sub_pixels``.
        hidden: h, the feature maps of the state; a multiple of ``sub_pixels``.
        kernel_size: of both convolutions, odd.
        sub_pixels, layout: see `MaskedConv2d`; the state of the row above is open to all sub-pixels.

    van den Oord et al. 2016 (arXiv:1601.06759), section 3.1.

    >>> RowLSTM(8, 4)(torch.randn(2, 8, 5, 7)).shape
    torch.Size([2, 4, 5, 7])
    """

    def __init__(
        self, in_channels: int, hidden: int, kernel_size: int = 3, *, sub_pixels: int = 1, layout: str = "contiguous"
    ):
        super().__init__()
        self.input_to_state = MaskedConv2d(
            in_channels, 4 * hidden, (1, kernel_size), mask="B", sub_pixels=sub_pixels, layout=layout, out_parts=4
        )
        self.state_to_state = state_to_state(hidden, kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, in_channels, H, W]`` to ``[B, hidden, H, W]``."""
        return ops.row_lstm(self.input_to_state(x), self.state_to_state)


class DiagonalBiLSTM(nn.Module):
    """Two LSTMs along the diagonals, one from each upper corner: together they read all features before.

    The one from the left gives a pixel all that lies above and to the left of it. The one from the right is the same
    on the mirrored picture, and since it has the pixels to the right its output moves down by a row before it is added.

    After a type A convolution, whose features do not hold their own pixel, one pixel before is out of sight: the last
    one of the row above, which no feature of that row holds, unless the convolution itself reaches it.

    Args:
        in_channels: multiple of ``sub_pixels``.
        hidden: h, the feature maps of both states; a multiple of ``sub_pixels``.
        sub_pixels, layout: see `MaskedConv2d`; the states of other pixels are open to all sub-pixels.

    van den Oord et al. 2016 (arXiv:1601.06759), section 3.2 and figure 3.

    >>> DiagonalBiLSTM(8, 4)(torch.randn(2, 8, 5, 7)).shape
    torch.Size([2, 4, 5, 7])
    """

    def __init__(self, in_channels: int, hidden: int, *, sub_pixels: int = 1, layout: str = "contiguous"):
        super().__init__()
        self.input_to_state = nn.ModuleList(
            MaskedConv2d(in_channels, 4 * hidden, 1, mask="B", sub_pixels=sub_pixels, layout=layout, out_parts=4)
            for _ in range(2)
        )
        self.state_to_state = nn.ParameterList(state_to_state(hidden, 2) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, in_channels, H, W]`` to ``[B, hidden, H, W]``."""
        left = ops.diagonal_lstm(self.input_to_state[0](x), self.state_to_state[0])
        if x.shape[2] == 1:
            return left
        above = x[:, :, :-1].flip(3)  # the last row would move out of the picture
        right = ops.diagonal_lstm(self.input_to_state[1](above), self.state_to_state[1]).flip(3)
        return left + pad(right, (0, 0, 1, 0))
