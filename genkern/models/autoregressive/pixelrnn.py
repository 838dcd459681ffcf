"""Pixel Recurrent Neural Networks. van den Oord, Kalchbrenner & Kavukcuoglu 2016 (arXiv:1601.06759).

A masked 7x7 convolution, layers of a two-dimensional LSTM with residual connections around them (figure 5, right), two
masked 1x1 convolutions, and a softmax over the levels of every sub-pixel (table 1). The row LSTM sees a triangle above
a pixel, the diagonal BiLSTM all pixels before it but one (see `DiagonalBiLSTM`).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ...nn import DiagonalBiLSTM, MaskedConv2d, RowLSTM
from ._base import AutoregressiveModel, by_levels, check_picture

LSTMS = ("diagonal", "row")


@dataclass(frozen=True)
class Config:
    shape: tuple[int, ...] = (3, 32, 32)
    levels: int | None = 256
    classes: int | None = None
    lstm: str = "diagonal"  # or "row"
    layers: int = 12
    h: int = 126  # feature maps of a state (128 in table 1, which does not divide by three)
    kernel: int = 3  # of the row LSTM's convolutions
    head: int = 1023  # maps of the last two layers (1024 in table 1)

    def __post_init__(self) -> None:
        if self.classes is not None:
            raise ValueError(f"PixelRNN: classes must be None, it has no conditioning; got {self.classes}.")
        if self.lstm not in LSTMS:
            raise ValueError(f"PixelRNN: lstm must be one of {LSTMS}; got {self.lstm!r}.")


class ResidualLSTM(nn.Module):
    """From 2h maps to a state of h, 1x1 back to 2h, and the input again (figure 5, right)."""

    def __init__(self, config: Config):
        super().__init__()
        h, colours = config.h, config.shape[0]
        self.lstm: nn.Module
        if config.lstm == "row":
            self.lstm = RowLSTM(2 * h, h, config.kernel, sub_pixels=colours)
        else:
            self.lstm = DiagonalBiLSTM(2 * h, h, sub_pixels=colours)
        self.up = MaskedConv2d(h, 2 * h, 1, mask="B", sub_pixels=colours)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up(self.lstm(x))


def pixelrnn(config: Config) -> nn.Sequential:
    """The network from pixels in [-1, 1] to logits, ``[B, C * levels, H, W]`` (table 1)."""
    colours, h, levels = config.shape[0], config.h, config.levels or 2
    return nn.Sequential(
        MaskedConv2d(colours, 2 * h, 7, mask="A", sub_pixels=colours),
        *(ResidualLSTM(config) for _ in range(config.layers)),
        nn.ReLU(),
        MaskedConv2d(2 * h, config.head, 1, mask="B", sub_pixels=colours),
        nn.ReLU(),
        MaskedConv2d(config.head, colours * levels, 1, mask="B", sub_pixels=colours),
    )


class PixelRNN(AutoregressiveModel):
    config_class = Config

    def __init__(self, config: Config):
        super().__init__(config)
        check_picture("PixelRNN", config)
        self.network = pixelrnn(config)

    def logits(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return by_levels(self.network(self.scale(x)), self.config.shape[0])


PRESETS = {
    "pixelrnn": Config(),  # the diagonal BiLSTM for CIFAR-10 of table 1
    "pixelrnn-row": Config(lstm="row"),
    "pixelrnn-mnist": Config(shape=(1, 28, 28), layers=7, h=16, head=32),  # section 5.2
    "pixelrnn-small": Config(shape=(1, 8, 8), levels=17, layers=3, h=24, head=48),
    "pixelrnn-small-row": Config(shape=(1, 8, 8), levels=17, lstm="row", layers=3, h=24, head=48),
}
