"""The U-Net of denoising diffusion models, with the variations that later papers made of it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, scaled_dot_product_attention, silu

from .embedding import TimeEmbedding

RESAMPLINGS = ("conv", "block")


class UNet(nn.Module):
    r"""Noisy pictures and the time to what the noise, the picture or the score is predicted from.

    Down through resolutions and up again, with residual blocks that see the time, self-attention at chosen
    resolutions, and every feature map of the way down handed to its mate on the way up. The defaults are the network
    of Ho et al. for CIFAR-10: 35.7 million parameters.

    Args:
        shape: ``(C, H, W)`` of a picture; H and W can be halved ``len(multipliers) - 1`` times.
        out_channels: of the result; None: C. Twice C where a variance is learned too.
        channels: of the first resolution; a multiple of 4.
        multipliers: of the channels, one for each resolution.
        blocks: residual blocks of each resolution.
        attention: heights at which a block is followed by self-attention (the middle one always is).
        heads: of the attention.
        dropout: within residual blocks.
        classes: how many labels; None: none. See `TimeEmbedding`.
        scale_shift: the time scales and shifts normalised features, where it is else added to them.
        resample: ``"conv"``, a convolution of stride 2 and one after nearest-neighbour enlargement, or ``"block"``,
            a residual block that halves or doubles the resolution inside.
        skip_rescale: a residual sum is divided by :math:`\sqrt 2`.
        embedding: ``"positional"`` or ``"fourier"``; see `TimeEmbedding`.

    The last convolution of every block, and of the network, starts at zero.

    Ho et al. 2020 (arXiv:2006.11239), appendix B; ``scale_shift`` and ``heads``: Nichol & Dhariwal 2021
    (arXiv:2102.09672); ``"block"`` and ``skip_rescale``: Song et al. 2021 (arXiv:2011.13456), appendix H.

    >>> network = UNet((1, 8, 8), channels=16, multipliers=(1, 2), blocks=1, attention=(4,))
    >>> network(torch.randn(2, 1, 8, 8), torch.tensor([0, 999])).shape
    torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        out_channels: int | None = None,
        channels: int = 128,
        multipliers: tuple[int, ...] = (1, 2, 2, 2),
        blocks: int = 2,
        attention: tuple[int, ...] = (16,),
        heads: int = 1,
        dropout: float = 0.1,
        classes: int | None = None,
        scale_shift: bool = False,
        resample: str = "conv",
        skip_rescale: bool = False,
        embedding: str = "positional",
    ):
        super().__init__()
        _check(shape, channels, multipliers, blocks, resample)
        colours, height = shape[0], shape[1]
        features = 4 * channels

        def block(inputs: int, outputs: int, change: str | None = None) -> ResidualBlock:
            return ResidualBlock(
                inputs, outputs, features, dropout=dropout, scale_shift=scale_shift, rescale=skip_rescale, change=change
            )

        def site(inputs: int, outputs: int, height: int) -> Stage:
            attend = Attention(outputs, heads, rescale=skip_rescale) if height in attention else None
            return Stage(block(inputs, outputs), attend)

        self.embed = TimeEmbedding(channels, classes=classes, kind=embedding)
        self.first = nn.Conv2d(colours, channels, 3, padding=1)

        width, kept = channels, [channels]
        self.down = nn.ModuleList()
        for level, multiplier in enumerate(multipliers):
            for _ in range(blocks):
                self.down.append(site(width, multiplier * channels, height))
                width = multiplier * channels
                kept.append(width)
            if level + 1 < len(multipliers):
                halve = Downsample(width) if resample == "conv" else block(width, width, "down")
                self.down.append(Stage(halve))
                kept.append(width)
                height //= 2

        self.middle = nn.ModuleList(
            [Stage(block(width, width), Attention(width, heads, rescale=skip_rescale)), Stage(block(width, width))]
        )

        self.up = nn.ModuleList()
        for level, multiplier in reversed(list(enumerate(multipliers))):
            for _ in range(blocks + 1):
                self.up.append(site(width + kept.pop(), multiplier * channels, height))
                width = multiplier * channels
            if level:
                self.up.append(Enlarge(Upsample(width) if resample == "conv" else block(width, width, "up")))
                height *= 2

        self.norm = group_norm(width)
        self.last = zero(nn.Conv2d(width, colours if out_channels is None else out_channels, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Pictures ``[B, C, H, W]``, times ``[B]`` and labels ``[B]`` to ``[B, out_channels, H, W]``."""
        time = silu(self.embed(t, y))
        h = self.first(x)
        kept = [h]
        for stage in self.down:
            h = stage(h, time)
            kept.append(h)
        for stage in self.middle:
            h = stage(h, time)
        for stage in self.up:
            h = stage(h if isinstance(stage, Enlarge) else torch.cat([h, kept.pop()], dim=1), time)
        return self.last(silu(self.norm(h)))


class Stage(nn.Module):
    """A layer, which sees the time if it is a residual block, and perhaps self-attention after it."""

    def __init__(self, layer: nn.Module, attention: nn.Module | None = None):
        super().__init__()
        self.layer, self.attention = layer, attention

    def forward(self, h: Tensor, time: Tensor) -> Tensor:
        h = self.layer(h, time) if isinstance(self.layer, ResidualBlock) else self.layer(h)
        return h if self.attention is None else self.attention(h)


class Enlarge(Stage):
    """The way up to the next resolution, which takes nothing from the way down."""


class ResidualBlock(nn.Module):
    r"""Two convolutions, each after group normalisation and SiLU, with the time between them.

    Args:
        inputs, outputs: channels; where they differ, a 1x1 convolution leads around the block.
        features: of the time.
        change: ``"down"`` or ``"up"``: half or twice the resolution, by means or repetition, within the block.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        features: int,
        *,
        dropout: float = 0.0,
        scale_shift: bool = False,
        rescale: bool = False,
        change: str | None = None,
    ):
        super().__init__()
        self.scale_shift, self.rescale, self.change, self.dropout = scale_shift, rescale, change, dropout
        self.norm1, self.conv1 = group_norm(inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time = nn.Linear(features, 2 * outputs if scale_shift else outputs)
        self.norm2, self.conv2 = group_norm(outputs), zero(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.around = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """``[B, inputs, H, W]`` and the time's features after SiLU, ``[B, features]``."""
        h = self.conv1(self._resized(silu(self.norm1(x))))
        time = self.time(time)[:, :, None, None]
        if self.scale_shift:
            scale, shift = time.chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm2(h), scale + 1)
        else:
            h = self.norm2(h + time)
        h = self.conv2(nn.functional.dropout(silu(h), self.dropout, self.training))
        x = self.around(self._resized(x)) + h
        return x * math.sqrt(0.5) if self.rescale else x

    def _resized(self, h: Tensor) -> Tensor:
        if self.change == "down":
            return avg_pool2d(h, 2)
        return interpolate(h, scale_factor=2, mode="nearest") if self.change == "up" else h


class Attention(nn.Module):
    """Residual self-attention of all sites of a feature map."""

    def __init__(self, channels: int, heads: int = 1, *, rescale: bool = False):
        super().__init__()
        if channels % heads:
            raise ValueError(f"UNet: heads must divide the {channels} channels of every attention; got {heads}.")
        self.heads, self.rescale = heads, rescale
        self.norm, self.qkv = group_norm(channels), nn.Conv2d(channels, 3 * channels, 1)
        self.out = zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        sites = self.qkv(self.norm(x)).flatten(2)  # [B, 3 C, H W]
        q, k, v = sites.unflatten(1, (3, self.heads, -1)).transpose(3, 4).unbind(1)  # [B, heads, H W, C / heads]
        h = scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(x.shape)
        x = x + self.out(h)
        return x * math.sqrt(0.5) if self.rescale else x


class Downsample(nn.Conv2d):
    """Half the resolution, by a convolution of stride 2."""

    def __init__(self, channels: int):
        super().__init__(channels, channels, 3, stride=2, padding=1)


class Upsample(nn.Conv2d):
    """Twice the resolution, by repetition and a convolution."""

    def __init__(self, channels: int):
        super().__init__(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(interpolate(x, scale_factor=2, mode="nearest"))


def group_norm(channels: int) -> nn.GroupNorm:
    """In 32 groups, or fewer, so that a group has at least 4 channels."""
    groups = next(n for n in range(min(32, max(1, channels // 4)), 0, -1) if channels % n == 0)
    return nn.GroupNorm(groups, channels, eps=1e-6)


def zero(layer: nn.Conv2d) -> nn.Conv2d:
    """The layer, from which nothing comes yet."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _check(shape: tuple[int, ...], channels: int, multipliers: tuple[int, ...], blocks: int, resample: str) -> None:
    if resample not in RESAMPLINGS:
        raise ValueError(f"UNet: resample must be one of {RESAMPLINGS}; got {resample!r}.")
    if len(shape) != 3:
        raise ValueError(f"UNet: shape must be (channels, height, width); got {tuple(shape)}.")
    if channels % 4 or channels < 4 or not multipliers or blocks < 1:
        raise ValueError(
            "UNet: channels must be a multiple of 4, with at least one multiplier and one block;"
            f" got {channels}, {multipliers} and {blocks}."
        )
    halvings = len(multipliers) - 1
    if shape[1] % 2**halvings or shape[2] % 2**halvings:
        raise ValueError(
            f"UNet: height and width must be multiples of {2**halvings} for {len(multipliers)} multipliers;"
            f" got {shape[1]}x{shape[2]}."
        )
