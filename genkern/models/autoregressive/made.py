"""MADE: Masked Autoencoder for Distribution Estimation. Germain et al. 2015 (arXiv:1502.03509).

A perceptron that reads the whole picture as one vector, R, G, B of each pixel in raster order, with masks on its
weights so that what it says of a sub-pixel follows from those before it. One pass gives a softmax over the levels of
every sub-pixel or, where there are many levels, a mixture of discretised logistics.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import one_hot

from ...nn import MADE as Perceptron
from ...ops import discretized_mixture_logistics, sample_discretized_mixture_logistics
from ._base import AutoregressiveModel, check_picture


@dataclass(frozen=True)
class Config:
    shape: tuple[int, ...] = (3, 32, 32)
    levels: int | None = 256
    classes: int | None = None  # of p(x | class); None: p(x)
    hidden: tuple[int, ...] = (3072,)  # units of each layer: one for a sub-pixel, or the nearest ones are out of sight
    mixtures: int | None = 3  # logistics of a sub-pixel; None: a softmax over the levels


class MADE(AutoregressiveModel):
    config_class = Config

    def __init__(self, config: Config):
        super().__init__(config)
        check_picture("MADE", config)
        outputs = (config.levels or 2) if config.mixtures is None else 3 * config.mixtures
        self.perceptron = Perceptron(
            math.prod(config.shape), config.hidden, outputs=outputs, context=config.classes or 0
        )

    def logits(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Of the levels, ``[B, levels, C, H, W]``; or of mixtures: logits, means, log-scales, ``[B, 3K, C, H, W]``."""
        channels, height, width = self.config.shape
        order = self.scale(x).permute(0, 2, 3, 1).flatten(1)  # raster order, sub-pixels innermost
        context = None if self.config.classes is None or y is None else one_hot(y.long(), self.config.classes).to(order)
        return self.perceptron(order, context).view(len(x), -1, height, width, channels).permute(0, 1, 4, 2, 3)

    def conditional_log_prob(self, logits: Tensor, x: Tensor) -> Tensor:
        if self.config.mixtures is None:
            return super().conditional_log_prob(logits, x)
        return -discretized_mixture_logistics(logits, x.unsqueeze(1), levels=self.config.levels)

    def noise_shape(self) -> tuple[int, ...]:
        """Of a mixture: which component, and its value."""
        return tuple(self.config.shape) if self.config.mixtures is None else (2, *self.config.shape)

    def draw(self, logits: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
        if self.config.mixtures is None:
            return super().draw(logits, noise, temperature)
        return sample_discretized_mixture_logistics(
            logits, channels=1, noise=noise, levels=self.config.levels, temperature=temperature,
            dtype=self.pixel_dtype,
        ).squeeze(1)  # fmt: skip


PRESETS = {
    "made": Config(),
    "made-mnist": Config((1, 28, 28), hidden=(1024,), mixtures=5),
    "made-small": Config((1, 8, 8), levels=17, hidden=(256, 256), mixtures=None),
}
