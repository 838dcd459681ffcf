"""Conditional Image Generation with PixelCNN Decoders. van den Oord et al. 2016 (arXiv:1606.05328).

A vertical stack that sees all rows above and a horizontal one that sees the row to the left, joined in every layer:
together they see all pixels before. Gated activations, into which a class enters as a bias of every layer (equation
4). Skip connections of the horizontal stack lead to two 1x1 layers and a softmax over the levels of every sub-pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import one_hot, relu

from ...nn import GatedMaskedConv2d, MaskedConv2d
from ._base import AutoregressiveModel, by_levels, check_picture


@dataclass(frozen=True)
class Config:
    shape: tuple[int, ...] = (3, 32, 32)
    levels: int | None = 256
    classes: int | None = None  # of p(x | class); None: p(x)
    layers: int = 15
    channels: int = 126  # p, the feature maps of each stack (a multiple of the colours)
    kernel: int = 3  # n; the first layer has 7
    head: int = 1023


class Stacks(nn.Module):
    """The network from pixels in [-1, 1] to logits, ``[B, C * levels, H, W]`` (figure 2)."""

    def __init__(self, config: Config):
        super().__init__()
        colours, p = config.shape[0], config.channels
        self.first = GatedMaskedConv2d(colours, p, 7, first=True, condition=config.classes, sub_pixels=colours)
        self.layers = nn.ModuleList(
            GatedMaskedConv2d(
                p, p, config.kernel, last=i == config.layers - 2, condition=config.classes, sub_pixels=colours
            )
            for i in range(config.layers - 1)
        )
        self.head = MaskedConv2d(p, config.head, 1, mask="B", sub_pixels=colours)
        self.last = MaskedConv2d(config.head, colours * (config.levels or 2), 1, mask="B", sub_pixels=colours)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        v, h, features = self.first(x, x, condition)
        for layer in self.layers:
            v, h, skip = layer(v, h, condition)
            features = features + skip
        return self.last(relu(self.head(relu(features))))


class GatedPixelCNN(AutoregressiveModel):
    config_class = Config

    def __init__(self, config: Config):
        super().__init__(config)
        check_picture("GatedPixelCNN", config)
        if config.layers < 2:
            raise ValueError(f"GatedPixelCNN: layers must be 2 or more; got {config.layers}.")
        self.network = Stacks(config)

    def condition(self, y: Tensor | None) -> Tensor | None:
        """What enters every layer: the class, one-hot, ``[B, classes]``."""
        return None if y is None else one_hot(y.long(), self.config.classes).to(next(self.parameters()).dtype)

    def logits(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return by_levels(self.network(self.scale(x), self.condition(y)), self.config.shape[0])


PRESETS = {
    "gated-pixelcnn": Config(),
    "gated-pixelcnn-mnist": Config(shape=(1, 28, 28), layers=7, channels=32, head=64),
    "gated-pixelcnn-small": Config(shape=(1, 8, 8), levels=17, layers=5, channels=32, head=32),
    "gated-pixelcnn-small-by-class": Config((1, 8, 8), levels=17, classes=10, layers=5, channels=32, head=32),
}
