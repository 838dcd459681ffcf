"""Convolutions over what lies above and to the left, by padding and not by masks: those of PixelCNN++."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, pad


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


__all__ = ["ShiftedConv2d"]
