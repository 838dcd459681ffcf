"""PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture Likelihood. Salimans et al. 2017
(arXiv:1701.05517).

Two streams go down in resolution and up again, with a shortcut from each layer of the way down to its twin on the way
up: ``u`` sees the rows above, ``ul`` those and the row to the left. One pass gives a mixture of logistics for every
pixel, of the true values of R, G, B in turn, so that a pixel of three channels is drawn at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import elu, glu, one_hot

from ...nn import ShiftedConv2d
from ...nn.autoregressive import with_ones
from ...ops import concat_elu, discretized_mixture_logistics, sample_discretized_mixture_logistics
from ._base import AutoregressiveModel, check_picture

Streams = list[tuple[Tensor, Tensor]]  # u and ul


@dataclass(frozen=True)
class Config:
    shape: tuple[int, ...] = (3, 32, 32)
    levels: int | None = 256
    classes: int | None = None  # of p(x | class); None: p(x)
    resnets: int = 5  # gated residual layers of each stream at each resolution
    filters: int = 160
    mixtures: int = 10  # K
    resolutions: int = 3  # each has half the height and width of the one before
    dropout: float = 0.5
    weight_norm: bool = True


class GatedResnet(nn.Module):
    """Convolution, shortcut from another stream, convolution, gate, residual (section 2.5; appendix)."""

    def __init__(self, config: Config, kind: str, shortcut: int = 0):
        super().__init__()
        f = config.filters
        self.first = convolution(config, 2 * f, f, kind)
        self.shortcut = pointwise(config, 2 * shortcut, f) if shortcut else None
        self.dropout = nn.Dropout(config.dropout)
        self.second = convolution(config, 2 * f, 2 * f, kind)
        self.by_class = nn.Linear(config.classes, 2 * f, bias=False) if config.classes else None

    def forward(self, x: Tensor, other: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        h = self.first(concat_elu(x))
        if self.shortcut is not None and other is not None:
            h = h + self.shortcut(concat_elu(other))
        h = self.second(self.dropout(concat_elu(h)))
        if self.by_class is not None:
            h = h + self.by_class(condition)[:, :, None, None]
        return x + glu(h, dim=1)


class Descent(nn.Module):
    """The layers of one resolution on the way down: ``ul`` takes ``u``."""

    def __init__(self, config: Config):
        super().__init__()
        layers = range(config.resnets)
        self.u = nn.ModuleList(GatedResnet(config, "u") for _ in layers)
        self.ul = nn.ModuleList(GatedResnet(config, "ul", config.filters) for _ in layers)

    def forward(self, u: Tensor, ul: Tensor, condition: Tensor | None) -> Streams:
        """What every layer gives."""
        passed = []
        for layer_u, layer_ul in zip(self.u, self.ul, strict=True):
            u = layer_u(u, condition=condition)
            ul = layer_ul(ul, u, condition)
            passed.append((u, ul))
        return passed


class Ascent(nn.Module):
    """The layers of one resolution on the way up: each takes its twin of the way down, ``ul`` also ``u``."""

    def __init__(self, config: Config, layers: int):
        super().__init__()
        self.u = nn.ModuleList(GatedResnet(config, "u", config.filters) for _ in range(layers))
        self.ul = nn.ModuleList(GatedResnet(config, "ul", 2 * config.filters) for _ in range(layers))

    def forward(self, u: Tensor, ul: Tensor, twins: Streams, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        for layer_u, layer_ul in zip(self.u, self.ul, strict=True):
            twin_u, twin_ul = twins.pop()
            u = layer_u(u, twin_u, condition)
            ul = layer_ul(ul, torch.cat([u, twin_ul], dim=1), condition)
        return u, ul


class Body(nn.Module):
    """From pixels in [-1, 1] to the parameters of the mixtures, ``[B, 3K or 10K, H, W]`` (figure 2)."""

    def __init__(self, config: Config):
        super().__init__()
        channels, f = config.shape[0], config.filters
        inputs = channels + 1  # and a plane of ones, which tells padding from zeros
        self.first_u = normed(config, ShiftedConv2d(inputs, f, (2, 3), down=1))
        self.first_above = normed(config, ShiftedConv2d(inputs, f, (1, 3), down=1))
        self.first_left = normed(config, ShiftedConv2d(inputs, f, (2, 1), right=1))
        self.down = nn.ModuleList(Descent(config) for _ in range(config.resolutions))
        self.up = nn.ModuleList(Ascent(config, config.resnets + (i > 0)) for i in range(config.resolutions))
        changes = range(config.resolutions - 1)  # of resolution
        self.halve_u = nn.ModuleList(convolution(config, f, f, "u", stride=2) for _ in changes)
        self.halve_ul = nn.ModuleList(convolution(config, f, f, "ul", stride=2) for _ in changes)
        self.double_u = nn.ModuleList(convolution(config, f, f, "u", stride=2, transposed=True) for _ in changes)
        self.double_ul = nn.ModuleList(convolution(config, f, f, "ul", stride=2, transposed=True) for _ in changes)
        self.head = pointwise(config, f, config.mixtures * (3 if channels == 1 else 10))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        x = with_ones(x)
        u, ul = self.first_u(x), self.first_above(x) + self.first_left(x)
        passed = [(u, ul)]
        for scale, layers in enumerate(self.down):
            passed += layers(*passed[-1], condition)
            if scale < len(self.halve_u):
                u, ul = passed[-1]
                passed.append((self.halve_u[scale](u), self.halve_ul[scale](ul)))
        u, ul = passed.pop()
        for scale, layers in enumerate(self.up):
            u, ul = layers(u, ul, passed, condition)
            if scale < len(self.double_u):
                u, ul = self.double_u[scale](u), self.double_ul[scale](ul)
        return self.head(elu(ul))


class PixelCNNPP(AutoregressiveModel):
    config_class = Config
    joint = True  # one pass gives all channels of a pixel
    head_kind = "mixture"

    def __init__(self, config: Config):
        super().__init__(config)
        check_picture("PixelCNNPP", config)
        factor = 2 ** (config.resolutions - 1)
        if config.shape[0] not in (1, 3) or config.shape[1] % factor or config.shape[2] % factor:
            raise ValueError(
                f"PixelCNNPP: shape must be (1 or 3, H, W) with H and W multiples of {factor}; got {config.shape}."
            )
        self.body = Body(config)

    def logits(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Parameters of a mixture of logistics for every pixel; see `genkern.ops.discretized_mixture_logistics`."""
        return self.body(self.scale(x), self.condition(y))

    def condition(self, y: Tensor | None) -> Tensor | None:
        """What enters every layer: the class, one-hot, ``[B, classes]``."""
        return None if y is None else one_hot(y.long(), self.config.classes).to(next(self.parameters()).dtype)

    @property
    def network(self) -> nn.Module:
        """What is sampled with a cache."""
        return self.body

    def conditional_log_prob(self, logits: Tensor, x: Tensor) -> Tensor:
        return -discretized_mixture_logistics(logits, x, levels=self.config.levels)

    def noise_shape(self) -> tuple[int, ...]:
        channels, height, width = self.config.shape
        return channels + 1, height, width  # which component, and the value of every channel

    def draw(self, logits: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
        return sample_discretized_mixture_logistics(
            logits, channels=self.config.shape[0], noise=noise, levels=self.config.levels, temperature=temperature,
            dtype=self.pixel_dtype,
        )  # fmt: skip


# -- parts -------------------------------------------------------------------------------------------------------------


def normed(config: Config, layer: nn.Module) -> nn.Module:
    dim = 1 if getattr(layer, "transposed", False) else 0  # that of the output channels
    return nn.utils.parametrizations.weight_norm(layer, dim=dim) if config.weight_norm else layer


def pointwise(config: Config, inputs: int, outputs: int) -> nn.Module:
    return normed(config, nn.Conv2d(inputs, outputs, 1))


def convolution(config: Config, inputs: int, outputs: int, kind: str, **options: Any) -> nn.Module:
    """Of the stream ``u`` (2 x 3, the rows above) or ``ul`` (2 x 2, above and left)."""
    return normed(config, ShiftedConv2d(inputs, outputs, (2, 3) if kind == "u" else (2, 2), **options))


PRESETS = {
    "pixelcnn-pp": Config(),
    "pixelcnn-pp-mnist": Config((1, 28, 28), resnets=3, filters=64),
    "pixelcnn-pp-small": Config((1, 8, 8), levels=17, resnets=1, filters=32, mixtures=5, resolutions=2, dropout=0.0),
}
