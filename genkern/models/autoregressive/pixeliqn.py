"""PixelIQN: Autoregressive Quantile Networks for Generative Modeling. Ostrovski et al. 2018 (arXiv:1806.05575).

A gated PixelCNN that gives one number for every sub-pixel: the quantile, at a level tau of its own, of its distribution
given those before. Trained by quantile regression; a sample is what it says of uniform levels, without a softmax. The
levels enter every gated layer as a term of each pixel, under the same masks as the pixels: a level reaches its own
sub-pixel and later ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot, relu

from ... import random
from ...nn import GatedMaskedConv2d, MaskedConv2d
from ...nn.autoregressive import Progress, cached, jacobi, naive
from ...ops import gated_activation, quantile_huber
from .._base import Batch, Loss, as_batch
from ._base import METHODS, AutoregressiveModel, check_picture


@dataclass(frozen=True)
class Config:
    shape: tuple[int, ...] = (3, 32, 32)
    levels: int | None = 256
    classes: int | None = None  # of p(x | class); None: p(x)
    layers: int = 15
    channels: int = 126  # feature maps of each stack (a multiple of the colours)
    kernel: int = 3  # the first layer has 7
    head: int = 1023
    cosines: int = 64  # n, features of a level
    embedding: int = 126
    kappa: float = 0.002  # width of the Huber loss, of values in [0, 1]


class QuantileEmbedding(nn.Module):
    r"""Features of the levels, :math:`\mathrm{ReLU}(W \cos(\pi j \tau) + b)`, ``j < n`` (Dabney et al. 2018, eq. 4)."""

    def __init__(self, config: Config):
        super().__init__()
        colours = config.shape[0]
        self.cosines = config.cosines
        self.mix = MaskedConv2d(colours * config.cosines, config.embedding, 1, mask="B", sub_pixels=colours)

    def forward(self, tau: Tensor) -> Tensor:
        """``[B, C, H, W]`` to ``[B, embedding, H, W]``, contiguous for each sub-pixel."""
        j = torch.arange(self.cosines, device=tau.device, dtype=tau.dtype)[:, None, None]
        return relu(self.mix((math.pi * j * tau.unsqueeze(2)).cos().flatten(1, 2)))


class QuantileLayer(GatedMaskedConv2d):
    """A layer of Gated PixelCNN whose horizontal gate also takes the levels; the vertical one would see them ahead."""

    def __init__(self, in_channels: int, config: Config, kernel: int, *, first: bool = False, last: bool = False):
        colours = config.shape[0]
        super().__init__(
            in_channels, config.channels, kernel, first=first, last=last, condition=config.classes, sub_pixels=colours
        )
        self.by_level = MaskedConv2d(
            config.embedding, 2 * config.channels, 1, mask="B", sub_pixels=colours, out_parts=2, bias=False
        )

    def forward(  # type: ignore[override]
        self, v: Tensor, h: Tensor, levels: Tensor, condition: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Both stacks and the skip connection; of the last layer, the skip alone."""
        term_v = None if self.by_class_v is None else self.by_class_v(condition)
        term_h = None if self.by_class_h is None else self.by_class_h(condition)
        raw = self.vertical(v)
        before = self.horizontal(h) + self.by_level(levels)
        out = self.mix(gated_activation(before, link=self.link(raw), condition=term_h))
        if self.last:
            return v, h, out
        skip, residual = out.chunk(2, dim=1)
        return gated_activation(raw, condition=term_v), residual if self.first else h + residual, skip


class Stacks(nn.Module):
    """From pixels in [-1, 1] and features of the levels to quantiles of values in [0, 1], less one half."""

    def __init__(self, config: Config):
        super().__init__()
        colours, count = config.shape[0], config.layers
        self.layers = nn.ModuleList(
            QuantileLayer(config.channels if i else colours, config, config.kernel if i else 7, first=i == 0,
                          last=i == count - 1)
            for i in range(count)
        )  # fmt: skip
        self.head = MaskedConv2d(config.channels, config.head, 1, mask="B", sub_pixels=colours)
        self.last = MaskedConv2d(config.head, colours, 1, mask="B", sub_pixels=colours)

    def forward(self, x: Tensor, features: Tensor, condition: Tensor | None = None) -> Tensor:
        v, h, total = self.layers[0](x, x, features, condition)
        for layer in self.layers[1:]:
            v, h, skip = layer(v, h, features, condition)
            total = total + skip
        return self.last(relu(self.head(relu(total))))


class PixelIQN(AutoregressiveModel):
    config_class = Config
    log_prob = None  # type: ignore[assignment]
    head_kind = "quantile"

    def __init__(self, config: Config):
        super().__init__(config)
        check_picture("PixelIQN", config)
        if config.layers < 2:
            raise ValueError(f"PixelIQN: layers must be 2 or more; got {config.layers}.")
        self.embedding = QuantileEmbedding(config)
        self.network = Stacks(config)

    def condition(self, y: Tensor | None) -> Tensor | None:
        """What enters every layer: the class, one-hot, ``[B, classes]``."""
        return None if y is None else one_hot(y.long(), self.config.classes).to(next(self.parameters()).dtype)

    def quantiles(self, x: Tensor, tau: Tensor, y: Tensor | None = None) -> Tensor:
        """Quantiles at levels ``tau`` of values in [0, 1], ``[B, C, H, W]``, each given the pixels before it."""
        levels = self.embedding(tau.to(next(self.parameters()).dtype))
        return self.network(self.scale(x), levels, self.condition(y)) + 0.5

    def logits(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The medians, ``[B, 1, C, H, W]``."""
        return self.quantiles(x, torch.full(x.shape, 0.5, device=x.device), y).unsqueeze(1)

    def loss(self, batch: Batch | Tensor, *, key: Tensor | None = None, sample_offset: int = 0) -> Loss:
        """Quantile Huber loss at one uniform level for every sub-pixel (eq. 3), averaged."""
        x, y = as_batch(batch)
        config = self._check(x, None)
        key = random.key_from(device=x.device) if key is None else key
        tau = self.noise(len(x), key=key, sample_offset=sample_offset)
        found = self.quantiles(x, tau, None if config.classes is None else y).to(self.dtype)
        total = quantile_huber(x.to(self.dtype) / (config.levels - 1), found, tau, kappa=config.kappa).mean()
        return Loss(total, {"quantile_huber": total.detach()})

    def draw(self, logits: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """The nearest levels of quantiles ``[B, C, H', W']``; the noise has entered them."""
        last = self.config.levels - 1
        return (logits * last).round().clamp(0, last).to(self.pixel_dtype)

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
        """`sample` of given levels; the temperature draws them towards the median."""
        if method not in METHODS:
            raise ValueError(f"PixelIQN.sample: method must be one of {METHODS}; got {method!r}.")
        tau = (0.5 + (noise - 0.5) * min(temperature, 1.0)).to(self.dtype)

        def quantiles(x: Tensor) -> Tensor:
            return self.quantiles(x, tau, y)

        training = self.training
        self.eval()
        try:
            if method == "naive":
                return naive(quantiles, self.draw, x, tau, free, progress=progress)
            if method == "jacobi":
                return jacobi(quantiles, self.draw, x, tau, free, progress)[0]
            return cached(
                self.network, x, tau, free, levels=self.config.levels, head=self.head_kind, condition=self.condition(y),
                features=self.embedding(tau.to(next(self.parameters()).dtype)), progress=progress,
                method="wavefront" if method == "wavefront" else "cached",
            )  # fmt: skip
        finally:
            self.train(training)


PRESETS = {
    "pixeliqn": Config(),
    "pixeliqn-mnist": Config((1, 28, 28), layers=7, channels=32, head=64, cosines=32, embedding=32),
    "pixeliqn-small": Config((1, 8, 8), levels=17, layers=5, channels=32, head=32, cosines=32, embedding=32),
}
