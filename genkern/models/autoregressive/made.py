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
from ...nn.autoregressive import Progress
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
        params = self.perceptron(self.scale(in_order(x)), self.condition(y))
        return params.view(len(x), -1, height, width, channels).permute(0, 1, 4, 2, 3)

    def condition(self, y: Tensor | None) -> Tensor | None:
        """The class, one-hot, ``[B, classes]``."""
        return None if y is None else one_hot(y.long(), self.config.classes).to(next(self.parameters()).dtype)

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
        """`sample` of given noise; ``"cached"`` (the default) computes every hidden unit once, and costs one pass."""
        if method not in ("auto", "cached"):
            return super().sample_with(noise, x, free, y, temperature=temperature, method=method, progress=progress)
        channels, height, width = self.config.shape
        uniform, pixels = in_order(noise), in_order(x)
        is_free = free.flatten().repeat_interleave(channels).tolist()
        place = -1  # of the sub-pixel, in order

        def draw(_: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
            nonlocal place
            place += 1
            if is_free[place]:
                here = uniform[..., place, None, None, None]
                pixels[:, place] = self.draw(params[..., None, None, None], here, temperature).flatten()
            if progress is not None and (place + 1) % channels == 0:
                progress((place + 1) // channels, height * width)
            return self.scale(pixels[:, place, None]), params.new_zeros(len(params))

        self.perceptron.by_steps(self.scale(pixels), draw, self.condition(y))
        return pixels.view(len(x), height, width, channels).permute(0, 3, 1, 2)


def in_order(x: Tensor) -> Tensor:
    """``[*, C, H, W]`` to ``[*, C * H * W]``: raster order, sub-pixels innermost."""
    return x.movedim(-3, -1).flatten(-3)


PRESETS = {
    "made": Config(),
    "made-mnist": Config((1, 28, 28), hidden=(1024,), mixtures=5),
    "made-small": Config((1, 8, 8), levels=17, hidden=(256, 256), mixtures=None),
}
