"""Emerging Convolutions for Generative Normalizing Flows. Hoogeboom, van den Berg & Welling 2019 (arXiv:1901.11137).

Glow whose 1x1 convolutions give way to invertible k x k convolutions (section 5): an emerging convolution, which is two
autoregressive convolutions of opposite orders on top of a 1x1 convolution; or a periodic convolution, which is inverted
in the Fourier domain. Levels, couplings and learned priors are those of Glow, and so is what is done with vectors: of a
single site, every kernel is 1x1, and an emerging convolution a product of triangular matrices.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...nn import ActNorm, EmergingConv2d, Flow, FlowSequential, PeriodicConv2d
from . import glow
from ._base import FlowModel


@dataclass(frozen=True)
class Config(glow.Config):
    mixing: str = "emerging"  # or "periodic": what mixes channels and neighbouring pixels
    kernel_size: int = 3  # k
    mask: str = "square"  # of the autoregressive convolutions; or "raster"


def step(channels: int, config: Config) -> Flow:
    """Activation normalisation, an invertible k x k convolution, and an affine coupling."""
    coupling, size = glow.coupling(channels, config), 1 if len(config.shape) == 1 else config.kernel_size
    if config.mixing == "periodic":
        return FlowSequential(ActNorm(channels), PeriodicConv2d(channels, size), coupling)
    mixing = EmergingConv2d(channels, size, mask=config.mask, parameterization=config.conv, actnorm=True)
    return FlowSequential(mixing, coupling)


class Emerging(FlowModel):
    config_class = Config

    def __init__(self, config: Config):
        super().__init__(config)
        if config.mixing not in ("emerging", "periodic"):
            raise ValueError(f"Emerging: mixing must be 'emerging' or 'periodic'; got {config.mixing!r}.")
        self.flow = glow.architecture("Emerging", config, step)


PRESETS = {
    "emerging": Config(),  # 32x32 pictures: Glow's sizes
    "emerging-mnist": Config(shape=(1, 28, 28), scales=2, steps=16, hidden=256),
    "emerging-small": Config(shape=(1, 8, 8), levels=17, scales=2, steps=4, hidden=64, dropout=0.1),
    "emerging-2d": Config(shape=(2,), levels=None, steps=12, hidden=64),
}
