"""Convolutions that see only what comes before, in raster order and with the sub-pixels R, G, B of a pixel in turn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, conv2d, pad

LAYOUTS = ("contiguous", "interleaved")
Taps = tuple[list[tuple[int, int]], Tensor]
"""Offsets (rows down, columns right), none of them positive, and their matrices ``[taps, in, out]``."""


def sub_pixel_of(channels: int, sub_pixels: int, layout: str = "contiguous", *, parts: int = 1) -> Tensor:
    """Which sub-pixel each channel belongs to, ``[channels]``.

    Args:
        channels: how many; each part must divide evenly, or a channel would belong to another sub-pixel than the layer
            after it believes, and information would leak.
        sub_pixels: of a pixel: 3 for R, G, B.
        layout: ``"contiguous"``, the first third of the channels for R; or ``"interleaved"``, every third channel.
        parts: parts that each have the layout, one after the other: the halves of a gate, or ``[x, -x]``.

    >>> sub_pixel_of(6, 3).tolist(), sub_pixel_of(6, 3, "interleaved").tolist()
    ([0, 0, 1, 1, 2, 2], [0, 1, 2, 0, 1, 2])
    """
    if layout not in LAYOUTS:
        raise ValueError(f"sub_pixel_of: layout must be one of {LAYOUTS}; got {layout!r}.")
    if channels % (parts * sub_pixels):
        times = f" in each of {parts} parts" if parts > 1 else ""
        raise ValueError(
            f"sub_pixel_of: channels must be a multiple of sub_pixels = {sub_pixels}{times}, or sub-pixels leak into"
            f" each other; got {channels}."
        )
    index = torch.arange(channels // parts)
    sub_pixel = index % sub_pixels if layout == "interleaved" else index * sub_pixels // max(len(index), 1)
    return sub_pixel.repeat(parts)


class MaskedConv2d(nn.Module):
    r"""A convolution over the rows above, the pixels to the left, and (type B) the pixel itself.

    .. math:: y_{i,j} = b + \sum_{(u, v) < (0, 0)} W_{u,v} x_{i+u, j+v} + (M \odot W_{0,0})\, x_{i,j}

    with ``M[out, in] = 1`` where the sub-pixel of the input comes before that of the output (type A), or is the same
    (type B). With one sub-pixel, type A has no centre and type B all of it.

    Only live weights are parameters, so that weight decay, moments and averages see no others: ``weight`` holds the
    taps before the centre, ``[out, in, taps]`` in raster order, and ``centre`` the live entries of the centre's matrix.
    What runs is a convolution of half the height on an input padded on three sides.

    Args:
        in_channels, out_channels: multiples of ``sub_pixels``.
        kernel_size: odd, or odd ``(height, width)``; of the height, the rows below the centre are dead.
        mask: ``"A"`` in the first layer, ``"B"`` after it.
        sub_pixels, layout: see `sub_pixel_of`; 3 for R, G, B.
        in_parts, out_parts: parts of the channels that each have the layout: 2 for the halves of a gate.
        bias: add a number to each output channel.

    Raises:
        ValueError: for channels that do not divide into sub-pixels, even kernels, or an unknown mask.

    A state dict with the whole kernel, ``[out, in, height, width]``, of the usual ``weight * mask`` layers loads too:
    its dead entries are left out.

    van den Oord et al. 2016 (arXiv:1601.06759), section 3.4 and figure 2.

    >>> layer = MaskedConv2d(1, 8, 7, mask="A")
    >>> layer(torch.randn(2, 1, 8, 8)).shape, layer.weight.shape
    (torch.Size([2, 8, 8, 8]), torch.Size([8, 1, 24]))
    """

    sub_pixel_in: Tensor
    sub_pixel_out: Tensor
    live: Tensor  # entries of the centre's matrix, of out * in

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        *,
        mask: str,
        sub_pixels: int = 1,
        layout: str = "contiguous",
        in_parts: int = 1,
        out_parts: int = 1,
        bias: bool = True,
    ):
        super().__init__()
        height, width = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        if height % 2 == 0 or width % 2 == 0:
            raise ValueError(f"MaskedConv2d: kernel_size must be odd; got {kernel_size}.")
        if mask not in ("A", "B"):
            raise ValueError(f"MaskedConv2d: mask must be 'A' or 'B'; got {mask!r}.")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.above, self.side, self.mask, self.sub_pixels = height // 2, width // 2, mask, sub_pixels
        self.register_buffer("sub_pixel_in", sub_pixel_of(in_channels, sub_pixels, layout, parts=in_parts), False)
        self.register_buffer("sub_pixel_out", sub_pixel_of(out_channels, sub_pixels, layout, parts=out_parts), False)
        source, target = self.sub_pixel_in, self.sub_pixel_out[:, None]
        live = (source < target) if mask == "A" else (source <= target)
        self.register_buffer("live", live.flatten().nonzero().squeeze(1), False)
        taps = self.above * width + self.side
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, taps)) if taps else None
        self.centre = nn.Parameter(torch.empty(len(self.live))) if len(self.live) else None
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        if not taps and not len(self.live):
            raise ValueError(
                f"MaskedConv2d: kernel_size must be above 1 where mask A has no centre; got {kernel_size}."
            )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform within the inverse root of the live fan-in (half of a kernel is dead), as `torch.nn.Conv2d`."""
        fan_in = sum(p.numel() for p in (self.weight, self.centre) if p is not None) / max(self.out_channels, 1)
        bound = 1 / math.sqrt(fan_in) if fan_in else 0.0
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def centre_matrix(self) -> Tensor:
        """The matrix of the pixel itself, ``[out, in]``, with zeros where the mask is."""
        like = self.weight if self.weight is not None else self.centre
        assert like is not None
        flat = like.new_zeros(self.out_channels * self.in_channels)
        if self.centre is not None:
            flat = self.centre if len(self.live) == len(flat) else flat.index_put((self.live,), self.centre)
        return flat.view(self.out_channels, self.in_channels)

    def kernel(self) -> Tensor:
        """The upper half of the convolution's kernel, ``[out, in, height // 2 + 1, width]``."""
        centre = self.centre_matrix().unsqueeze(2)
        before = centre[:, :, :0] if self.weight is None else self.weight
        after = centre.new_zeros(*centre.shape[:2], self.side)
        return torch.cat([before, centre, after], 2).view(*centre.shape[:2], self.above + 1, 2 * self.side + 1)

    def taps(self) -> Taps:
        """Live taps and their matrices."""
        columns = range(-self.side, self.side + 1)
        offsets = [(row, column) for row in range(-self.above, 0) for column in columns]
        offsets += [(0, column) for column in range(-self.side, 0)]
        matrices = [] if self.weight is None else [self.weight.permute(2, 1, 0)]
        if self.centre is not None:
            offsets, matrices = [*offsets, (0, 0)], [*matrices, self.centre_matrix().T[None]]
        return offsets, torch.cat(matrices)

    def forward(self, x: Tensor) -> Tensor:
        if self.mask == "A" and self.centre is None and self.above == 0:  # the left alone: no column for the centre
            assert self.weight is not None
            return conv2d(pad(x[..., :-1], (self.side, 0)), self.weight.unsqueeze(2), self.bias)
        if self.above == 0:
            kernel = self.kernel()[..., : self.side + 1]
            return conv2d(pad(x, (self.side, 0)) if self.side else x, kernel, self.bias)
        return conv2d(pad(x, (self.side, self.side, self.above, 0)), self.kernel(), self.bias)

    def _load_from_state_dict(self, state_dict: Mapping[str, Tensor], prefix: str, *args: Any) -> None:
        whole = state_dict.get(prefix + "weight")
        if whole is not None and whole.dim() == 4:
            wanted = (self.out_channels, self.in_channels, 2 * self.above + 1, 2 * self.side + 1)
            if tuple(whole.shape) != wanted:
                args[-1].append(f"size mismatch for {prefix}weight: {list(whole.shape)} for a kernel of {list(wanted)}")
                return
            state_dict = {**state_dict}
            flat = state_dict.pop(prefix + "weight").flatten(2)
            state_dict.pop(prefix + "mask", None)
            middle = flat.shape[2] // 2
            if self.weight is not None:
                state_dict[prefix + "weight"] = flat[:, :, :middle]
            if self.centre is not None:
                state_dict[prefix + "centre"] = flat[:, :, middle].flatten()[self.live.to(flat.device)]
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        size = (2 * self.above + 1, 2 * self.side + 1)
        colours = f", sub_pixels={self.sub_pixels}" if self.sub_pixels > 1 else ""
        return f"{self.in_channels}, {self.out_channels}, kernel_size={size}, mask={self.mask!r}{colours}"


class VerticalConv2d(nn.Module):
    """A convolution over whole rows: those above, and the row itself where its values know the rows above alone.

    Args:
        in_channels, out_channels: of the picture.
        kernel_size: odd; ``kernel_size // 2`` rows above, each of its full width.
        strict: leave out the row itself, as the first layer of a vertical stack must.
        bias: add a number to each output channel.

    van den Oord et al. 2016 (arXiv:1606.05328), section 2.2: stacked, such layers see all rows above, without the
    blind spot of masked convolutions.

    >>> VerticalConv2d(1, 8, 3, strict=True)(torch.randn(2, 1, 8, 8)).shape
    torch.Size([2, 8, 8, 8])
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, strict: bool, bias: bool = True):
        super().__init__()
        if kernel_size % 2 == 0 or kernel_size < 3:
            raise ValueError(f"VerticalConv2d: kernel_size must be odd, and 3 or more; got {kernel_size}.")
        self.in_channels, self.out_channels, self.side, self.strict = (
            in_channels,
            out_channels,
            kernel_size // 2,
            strict,
        )
        rows = self.side + (not strict)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, rows, kernel_size))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        bound = 1 / math.sqrt(in_channels * rows * kernel_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def taps(self) -> Taps:
        """Live taps and their matrices."""
        rows, columns = range(-self.side, not self.strict), range(-self.side, self.side + 1)
        return [(row, column) for row in rows for column in columns], self.weight.flatten(2).permute(2, 1, 0)

    def forward(self, x: Tensor) -> Tensor:
        x = x[..., :-1, :] if self.strict else x
        return conv2d(pad(x, (self.side, self.side, self.side, 0)), self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, kernel_size={2 * self.side + 1}, strict={self.strict}"


class CausalConv1d(nn.Module):
    r"""A dilated convolution over the past of a sequence.

    .. math:: y_t = b + \sum_{k=0}^{K-1} W_k\, x_{t - k d - s}, \qquad s = 1 \text{ for type A, else } 0

    Args:
        in_channels, out_channels: of the sequence.
        kernel_size: how many taps; all of them are live.
        dilation: steps between them; layers of dilation 1, 2, 4, … see twice as far with each.
        mask: ``"A"`` leaves out the present (the first layer), ``"B"`` has it.
        bias: add a number to each output channel.

    van den Oord et al. 2016 (arXiv:1609.03499), section 2.1.

    >>> CausalConv1d(4, 8, 2, dilation=4, mask="B")(torch.randn(2, 4, 16)).shape
    torch.Size([2, 8, 16])
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, dilation: int = 1, mask: str, bias: bool = True
    ):
        super().__init__()
        if mask not in ("A", "B"):
            raise ValueError(f"CausalConv1d: mask must be 'A' or 'B'; got {mask!r}.")
        if kernel_size < 1 or dilation < 1:
            raise ValueError(f"CausalConv1d: kernel_size and dilation must be positive; got {kernel_size}, {dilation}.")
        self.dilation, self.mask = dilation, mask
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        bound = 1 / math.sqrt(in_channels * kernel_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def taps(self) -> Taps:
        """Live taps and their matrices, of the sequence as a column: steps are rows."""
        shift, size = int(self.mask == "A"), self.weight.shape[2]
        return [(-shift - self.dilation * (size - 1 - k), 0) for k in range(size)], self.weight.permute(2, 1, 0)

    def forward(self, x: Tensor) -> Tensor:
        shift = int(self.mask == "A")
        reach = self.dilation * (self.weight.shape[2] - 1)
        return conv1d(
            pad(x[..., : x.shape[-1] - shift], (reach + shift, 0)), self.weight, self.bias, 1, 0, self.dilation
        )

    def extra_repr(self) -> str:
        outputs, inputs, size = self.weight.shape
        return f"{inputs}, {outputs}, kernel_size={size}, dilation={self.dilation}, mask={self.mask!r}"
