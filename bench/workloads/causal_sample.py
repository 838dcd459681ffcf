"""Sampling from Gated PixelCNN: 28x28 pixels of 256 levels, 5 layers of 32 channels.

`eager` is cached sampling in PyTorch, some forty kernels for each pixel; a graph of all of them together would take
hours to compile.
"""

import copy
from typing import Any

import torch
from torch import Tensor

from genkern.models.autoregressive.gated_pixelcnn import Config, GatedPixelCNN
from genkern.nn.autoregressive import cached
from genkern.nn.autoregressive.sampling import naive

from ..registry import FORWARD, Function, Inputs, Rival, Workload

SIDE, LEVELS = 28, 256
NAIVE_PIXELS = (
    4  # drawn by naive sampling, each by one pass over the whole picture; the rest of its time is more of them
)


def model_of(side: int, levels: int, layers: int, channels: int) -> GatedPixelCNN:
    config = Config((1, side, side), levels, layers=layers, channels=channels, head=channels)
    return GatedPixelCNN(config).eval()


@torch.no_grad()
def centred(noise: Tensor, model: GatedPixelCNN) -> Tensor:
    """Other uniform numbers with the same sample: those in the middle of a level, so that rounding decides nothing."""
    exact = copy.deepcopy(model).double()
    x, free = picture(exact, noise)
    x = cached(exact.network, x, noise, free, levels=model.config.levels or 2)
    probability = exact.logits(x).softmax(1)
    level = x.long().unsqueeze(1)
    return (probability.cumsum(1) - probability / 2).gather(1, level).squeeze(1)


def picture(model: GatedPixelCNN, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels to begin with, and that all of them are free."""
    return model.canvas(len(noise), noise.device, None, None, 0)


def sampling(batch: int, side: int, levels: int, layers: int, channels: int, **description: Any) -> Workload:
    def make(device: torch.device, dtype: torch.dtype) -> Inputs:
        model = model_of(side, levels, layers, channels).to(device, dtype)
        return centred(torch.rand(batch, 1, side, side).to(device), model).to(dtype), model

    def run(impl: str) -> Function:
        def sample(noise: Tensor, model: GatedPixelCNN) -> Tensor:
            return cached(model.network, *_of(model, noise), levels=levels, impl=impl).to(noise.dtype)

        return sample

    def _of(model: GatedPixelCNN, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, free = picture(model, noise)
        return x, noise, free

    def front() -> Function:
        return lambda noise, model: cached(model.network, *_of(model, noise), levels=levels, method="wavefront")

    def some_pixels() -> Function:
        def sample(noise: Tensor, model: GatedPixelCNN) -> Tensor:
            x, free = picture(model, noise)
            free.view(-1)[NAIVE_PIXELS:] = False
            return naive(model.logits, model.draw, x, noise, free)

        return sample

    rivals = {
        f"{NAIVE_PIXELS} of {side * side} naive passes": Rival(some_pixels, same_values=False),
        "wavefront": Rival(front, same_values=False),
    }
    name = f"batch {batch} of {side}x{side}, {layers} layers of {channels}"
    return Workload(name, make, run, modes=(FORWARD,), compiles=(), rivals=rivals, **description)


WORKLOADS = [
    sampling(1, SIDE, LEVELS, 5, 32),
    sampling(16, SIDE, LEVELS, 5, 32),
    sampling(4, 8, 17, 5, 32, quick=("eager", f"{NAIVE_PIXELS} of 64 naive passes")),
    sampling(1, 4, 4, 2, 4, launch=True),
]
SWEEP = [sampling(b, 8, 17, 5, 32) for b in (1, 4, 16, 64)]
