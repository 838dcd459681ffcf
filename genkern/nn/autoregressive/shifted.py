"""Convolutions over what lies above and to the left, by padding and not by masks: those of PixelCNN++."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, pad


def with_ones(x: Tensor) -> Tensor:
    """The picture ``[B, C, H, W]`` and a plane of ones, which tells padding from zeros, ``[B, C + 1, H, W]``."""
    return torch.cat([x, torch.ones_like(x[:, :1])], dim=1)


class ShiftedConv2d(nn.Module):
    r"""A convolution whose last row is that of the pixel, and whose last column, if even wide, is its own.

    .. math:: y_{i,j} = b + \sum_{u=0}^{h-1} \sum_{v} W_{u,v}\, x_{i - d - u,\; j - r + v}

    A kernel of odd width is centred and sees both sides of the rows it covers; of even width, it sees the left and the
    column itself. It covers the row itself, too, unless it is shifted down by a row, as the first layer of a stream is.

    Args:
        in_channels, out_channels: of the picture.
        kernel_size: ``(height, width)``; ``(2, 3)`` for the stream of the rows above, ``(2, 2)`` for that of the left.
        stride: 1, or 2 to halve the resolution.
        transposed: double the resolution instead (with stride 2).
        down, right: rows and columns by which the result is shifted: what a first layer must not see.
        bias: add a number to each output channel.

    Salimans et al. 2017 (arXiv:1701.05517), section 2.3 and figure 2; "down shifted" and "down right shifted" there.

    >>> layer = ShiftedConv2d(3, 8, (2, 3), stride=2)
    >>> layer(torch.randn(2, 3, 8, 8)).shape
    torch.Size([2, 8, 4, 4])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int],
        *,
        stride: int = 1,
        transposed: bool = False,
        down: int = 0,
        right: int = 0,
        bias: bool = True,
    ):
        super().__init__()
        if stride not in (1, 2) or (transposed and (stride != 2 or down or right)):
            raise ValueError(
                f"ShiftedConv2d: stride must be 1 or 2, and 2 without shifts where transposed; got {stride}."
            )
        if transposed and kernel_size not in ((2, 2), (2, 3)):
            raise ValueError(f"ShiftedConv2d: kernel_size must be (2, 2) or (2, 3) transposed; got {kernel_size}.")
        height, width = kernel_size
        self.kernel_size, self.stride, self.transposed, self.down, self.right = (
            kernel_size,
            stride,
            transposed,
            down,
            right,
        )
        # columns on the left and on the right, rows above
        self.margins = ((width - 1) // 2, (width - 1) // 2) if width % 2 else (width - 1, 0)
        self.out_channels = out_channels
        like = nn.ConvTranspose2d if transposed else nn.Conv2d
        layer = like(in_channels, out_channels, kernel_size, bias=bias)
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        (rows, _), (left, right) = self.kernel_size, self.margins
        if self.transposed:  # output 2 i + u of input i; of three columns the middle one is at 2 j
            y = conv_transpose2d(x, self.weight, self.bias, stride=2, output_padding=1)
            return y[:, :, : 2 * height, right : right + 2 * width]
        # a shift by a row or column is one more of padding, and one less at the other end
        x = pad(x, (left + self.right, right - self.right, rows - 1 + self.down, -self.down))
        return conv2d(x, self.weight, self.bias, stride=self.stride)

    def phases(self) -> list[tuple[int, int, list[tuple[int, int]], Tensor]]:
        """Live taps and their matrices ``[taps, in, out]``: of every output, or transposed, of each of four.

        A phase is the row and the column of an output within its square, offsets (rows down, columns right) from the
        input of that square, and matrices.
        """
        (rows, columns), (left, right) = self.kernel_size, self.margins
        if not self.transposed:
            offsets = [(u - rows + 1 - self.down, v - left - self.right) for u in range(rows) for v in range(columns)]
            return [(0, 0, offsets, self.weight.flatten(2).permute(2, 1, 0))]
        found = []
        for row in range(2):
            for column in range(2):
                taps = [v for v in reversed(range(columns)) if (column + right - v) % 2 == 0]
                offsets = [(0, (column + right - v) // 2) for v in taps]
                found.append((row, column, offsets, torch.stack([self.weight[:, :, row, v] for v in taps])))
        return found


__all__ = ["ShiftedConv2d", "with_ones"]
