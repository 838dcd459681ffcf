"""PixelCNN, of "Pixel Recurrent Neural Networks". van den Oord, Kalchbrenner & Kavukcuoglu 2016 (arXiv:1601.06759).

A 7x7 convolution with mask A, residual blocks of convolutions with mask B (figure 5, left), two layers of 1x1
convolutions, and a softmax over the levels of every sub-pixel (table 1, first column). R, G and B of a pixel are
predicted in turn. Stacked masked convolutions have a blind spot to the upper right; `gated_pixelcnn` has none.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ...nn import MaskedConv2d
from ._base import AutoregressiveModel, by_levels, check_picture


@dataclass(frozen=True)
class Config:
    shape: tuple[int, ...] = (3, 32, 32)
    levels: int | None = 256
    classes: int | None = None
    h: int = 126  # feature maps within a residual block (128 in table 1, which does not divide by three)
    blocks: int = 15
    head: int = 1023  # maps of the last two layers (1024 in table 1)

    def __post_init__(self) -> None:
        if self.classes is not None:
            raise ValueError(f"PixelCNN: classes must be None, it has no conditioning; got {self.classes}.")


class ResidualBlock(nn.Module):
    """ReLU and 1x1 from 2h maps to h, 3x3, 1x1 back to 2h, and the input again (figure 5, left)."""

    def __init__(self, h: int, sub_pixels: int):
        super().__init__()
        self.branch = nn.Sequential(
            nn.ReLU(),
            MaskedConv2d(2 * h, h, 1, mask="B", sub_pixels=sub_pixels),
            nn.ReLU(),
            MaskedConv2d(h, h, 3, mask="B", sub_pixels=sub_pixels),
            nn.ReLU(),
            MaskedConv2d(h, 2 * h, 1, mask="B", sub_pixels=sub_pixels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def pixelcnn(config: Config) -> nn.Sequential:
    """The network from pixels in [-1, 1] to logits, ``[B, C * levels, H, W]`` (table 1)."""
    colours, h, levels = config.shape[0], config.h, config.levels or 2
    return nn.Sequential(
        MaskedConv2d(colours, 2 * h, 7, mask="A", sub_pixels=colours),
        *(ResidualBlock(h, colours) for _ in range(config.blocks)),
        nn.ReLU(),
        MaskedConv2d(2 * h, config.head, 1, mask="B", sub_pixels=colours),
        nn.ReLU(),
        MaskedConv2d(config.head, colours * levels, 1, mask="B", sub_pixels=colours),
    )


class PixelCNN(AutoregressiveModel):
    config_class = Config

    def __init__(self, config: Config):
        super().__init__(config)
        check_picture("PixelCNN", config)
        self.network = pixelcnn(config)

    def logits(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return by_levels(self.network(self.scale(x)), self.config.shape[0])


PRESETS = {
    "pixelcnn": Config(),  # CIFAR-10 of table 1
    "pixelcnn-mnist": Config(shape=(1, 28, 28), h=32, blocks=7, head=64),
    "pixelcnn-small": Config(shape=(1, 8, 8), levels=17, h=24, blocks=4, head=48),
}
