"""Pixel Recurrent Neural Networks. van den Oord, Kalchbrenner & Kavukcuoglu 2016 (arXiv:1601.06759).

A masked 7x7 convolution, layers of a two-dimensional LSTM with residual connections around them (figure 5, right), two
masked 1x1 convolutions, and a softmax over the levels of every sub-pixel (table 1). The row LSTM sees a triangle above
a pixel, the diagonal BiLSTM all pixels before it but one (see `DiagonalBiLSTM`). A class, which the paper does not
have, is a bias of what the first convolution gives.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import linear, one_hot, pad

from ...nn import DiagonalBiLSTM, MaskedConv2d, RowLSTM
from ...nn.autoregressive import Progress
from ._base import AutoregressiveModel, by_levels, check_picture

LSTMS = ("diagonal", "row")
METHODS = ("auto", "cached")


@dataclass(frozen=True)
class Config:
    shape: tuple[int, ...] = (3, 32, 32)
    levels: int | None = 256
    classes: int | None = None  # of p(x | class); None: p(x)
    lstm: str = "diagonal"  # or "row"
    layers: int = 12
    h: int = 126  # feature maps of a state (128 in table 1, which does not divide by three)
    kernel: int = 3  # of the row LSTM's convolutions
    head: int = 1023  # maps of the last two layers (1024 in table 1)

    def __post_init__(self) -> None:
        if self.lstm not in LSTMS:
            raise ValueError(f"PixelRNN: lstm must be one of {LSTMS}; got {self.lstm!r}.")


class ResidualLSTM(nn.Module):
    """From 2h maps to a state of h, 1x1 back to 2h, and the input again (figure 5, right)."""

    def __init__(self, config: Config):
        super().__init__()
        h, colours = config.h, config.shape[0]
        self.lstm: RowLSTM | DiagonalBiLSTM
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
        self.stack = pixelrnn(config)
        self.by_class = nn.Linear(config.classes, 2 * config.h, bias=False) if config.classes else None

    def logits(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        features = self.stack[0](self.scale(x))
        term = self.class_term(y, features)
        features = features if term is None else features + term[:, :, None, None]
        return by_levels(self.stack[1:](features), self.config.shape[0])

    def class_term(self, y: Tensor | None, like: Tensor) -> Tensor | None:
        """What the labels add to every pixel's features, ``[B, 2h]``."""
        if self.by_class is None or y is None:
            return None
        return self.by_class(one_hot(y.long(), self.config.classes).to(like))

    def sample_with(
        self,
        noise: Tensor,
        x: Tensor,
        free: Tensor,
        y: Tensor | None,
        *,
        temperature: float,
        method: str,
        progress: Progress | None = None,
    ) -> Tensor:
        """`sample` of given noise; ``"cached"`` (the default) computes every state once, for each sub-pixel of it."""
        if method not in METHODS:
            return super().sample_with(noise, x, free, y, temperature=temperature, method=method, progress=progress)
        channels, height, width = self.config.shape
        first, head = self.stack[0], self.stack[self.config.layers + 1 :]
        assert isinstance(first, MaskedConv2d)
        blocks = [block for block in self.stack if isinstance(block, ResidualLSTM)]
        states = [block.lstm.decoder_state(len(x), height, width) for block in blocks]
        kernel = first.kernel().flatten(1)  # [2h, C * 4 * 7]
        term = self.class_term(y, kernel)
        x, known = x.clone(), pad(self.scale(x), (3, 3, 3, 0))  # zeros around the picture, as the convolution pads it
        for i in range(height):
            for block, state in zip(blocks, states, strict=True):
                block.lstm.begin_row(i, state)
            for j in range(width):
                for channel in range(channels):
                    h = linear(known[:, :, i : i + 4, j : j + 7].flatten(1), kernel, first.bias)
                    h = h if term is None else h + term
                    for block, state in zip(blocks, states, strict=True):
                        h = h + block.up(block.lstm.decode(h, i, j, state)[:, :, None, None])[:, :, 0, 0]
                    if bool(free[i, j]):
                        at = (..., slice(i, i + 1), slice(j, j + 1))
                        logits = by_levels(head(h[:, :, None, None]), channels)
                        x[:, channel, i, j] = self.draw(logits, noise[at], temperature)[:, channel, 0, 0]
                        known[:, :, i + 3, j + 3] = self.scale(x[:, :, i, j])
                if progress is not None:
                    progress(i * width + j + 1, height * width)
        return x


PRESETS = {
    "pixelrnn": Config(),  # the diagonal BiLSTM for CIFAR-10 of table 1
    "pixelrnn-row": Config(lstm="row"),
    "pixelrnn-mnist": Config(shape=(1, 28, 28), layers=7, h=16, head=32),  # section 5.2
    "pixelrnn-small": Config(shape=(1, 8, 8), levels=17, layers=3, h=24, head=48),
    "pixelrnn-small-by-class": Config(shape=(1, 8, 8), levels=17, classes=10, layers=3, h=24, head=48),
    "pixelrnn-small-row": Config(shape=(1, 8, 8), levels=17, lstm="row", layers=3, h=24, head=48),
}
