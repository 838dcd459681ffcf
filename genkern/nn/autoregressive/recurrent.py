"""The layers of PixelRNN: LSTMs over the rows of a picture, and over its diagonals from both sides."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from ... import ops
from .masked import MaskedConv2d


def state_to_state(hidden: int, taps: int) -> nn.Parameter:
    bound = 1 / math.sqrt(hidden * taps)
    return nn.Parameter(torch.empty(4 * hidden, hidden, taps).uniform_(-bound, bound))


@dataclass
class DecoderState:
    """What a layer remembers of a picture that is being drawn: maps with zeros above and at the sides."""

    margin: int
    kernel: Tensor  # input-to-state, [4h, in * taps]
    x: Tensor  # features, [B, in, H + 1, W + 2 margin]
    h: Tensor
    c: Tensor
    above: Tensor  # what the stream from the right says of the row above, [B, h, W]

    @staticmethod
    def new(kernel: Tensor, hidden: int, shape: tuple[int, int, int], margin: int) -> DecoderState:
        """For pictures of ``(batch, height, width)``."""
        batch, height, width = shape
        size = (batch, hidden, height + 1, width + 2 * margin)
        x = kernel.new_zeros(batch, kernel.shape[1], *size[2:])
        h, c = kernel.new_zeros(size), kernel.new_zeros(size)
        return DecoderState(margin, kernel.flatten(1), x, h, c, kernel.new_zeros(batch, hidden, width))

    def step(self, i: int, j: int, sums: Tensor, c_before: Tensor) -> Tensor:
        """The LSTM's cell, which becomes part of the maps; ``h``, ``[B, h]``."""
        o, f, i_gate, g = sums.chunk(4, dim=1)
        c = f.sigmoid() * c_before + i_gate.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        self.c[:, :, i, j], self.h[:, :, i, j] = c, h
        return h


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

    def decoder_state(self, batch: int, height: int, width: int) -> DecoderState:
        """For `decode`, of pictures of which nothing is known yet."""
        side = self.state_to_state.shape[2] // 2
        kernel = self.input_to_state.kernel()[:, :, 0, : side + 1]
        return DecoderState.new(kernel, self.state_to_state.shape[1], (batch, height, width), side)

    def begin_row(self, row: int, state: DecoderState) -> None:
        """To be called before the first pixel of a row."""

    def decode(self, x: Tensor, row: int, column: int, state: DecoderState) -> Tensor:
        """The output at a pixel, ``[B, hidden]``, from its features, ``[B, in_channels]``, after all pixels before."""
        i, j, side = row + 1, column + state.margin, state.margin
        state.x[:, :, i, j] = x
        sums = linear(state.x[:, :, i, j - side : j + 1].flatten(1), state.kernel, self.input_to_state.bias)
        seen = state.h[:, :, i - 1, j - side : j + side + 1].flatten(1)
        return state.step(i, j, sums + linear(seen, self.state_to_state.flatten(1)), state.c[:, :, i - 1, j])


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
        self.input_from_left, self.input_from_right = (
            MaskedConv2d(in_channels, 4 * hidden, 1, mask="B", sub_pixels=sub_pixels, layout=layout, out_parts=4)
            for _ in range(2)
        )
        self.state_from_left, self.state_from_right = (state_to_state(hidden, 2) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, in_channels, H, W]`` to ``[B, hidden, H, W]``."""
        left = ops.diagonal_lstm(self.input_from_left(x), self.state_from_left)
        if x.shape[2] == 1:
            return left
        above = x[:, :, :-1].flip(3)  # the last row would move out of the picture
        right = ops.diagonal_lstm(self.input_from_right(above), self.state_from_right).flip(3)
        return left + pad(right, (0, 0, 1, 0))

    def decoder_state(self, batch: int, height: int, width: int) -> DecoderState:
        """For `decode`, of pictures of which nothing is known yet."""
        kernel = self.input_from_left.kernel()[:, :, 0]
        return DecoderState.new(kernel, self.state_from_left.shape[1], (batch, height, width), 1)

    def begin_row(self, row: int, state: DecoderState) -> None:
        """To be called before the first pixel of a row: runs the stream from the right over all rows above."""
        if row:
            above = state.x[:, :, 1 : row + 1, 1:-1].flip(3)
            right = ops.diagonal_lstm(self.input_from_right(above), self.state_from_right)
            state.above = right[:, :, -1].flip(2)

    def decode(self, x: Tensor, row: int, column: int, state: DecoderState) -> Tensor:
        """The output at a pixel, ``[B, hidden]``, from its features, ``[B, in_channels]``, after all pixels before."""
        i, j = row + 1, column + 1
        state.x[:, :, i, j] = x
        seen = torch.stack([state.h[:, :, i - 1, j], state.h[:, :, i, j - 1]], dim=2).flatten(1)
        sums = linear(x, state.kernel, self.input_from_left.bias) + linear(seen, self.state_from_left.flatten(1))
        return state.step(i, j, sums, state.c[:, :, i, j - 1]) + state.above[:, :, column]
