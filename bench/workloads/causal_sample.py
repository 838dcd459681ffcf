"""Sampling from Gated PixelCNN: 28x28 pixels of 256 levels, 5 layers of 32 channels.

`eager` is cached sampling in PyTorch, some forty kernels for each pixel; `compile` is the same, since a graph of all of
them together would take hours to compile.
"""

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


def picture(model: GatedPixelCNN, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels to begin with, and that all of them are free."""
    return model.canvas(len(noise), noise.device, None, None, 0)


def sampling(batch: int, side: int, levels: int, layers: int, channels: int, **description: Any) -> Workload:
    def make(device: torch.device, dtype: torch.dtype) -> Inputs:
        model = model_of(side, levels, layers, channels).to(device, dtype)
        return torch.rand(batch, 1, side, side).to(device, dtype), model

    def run(impl: str) -> Function:
        def sample(noise: Tensor, model: GatedPixelCNN) -> Tensor:
            return cached(model.network, *_of(model, noise), levels=levels, impl=impl).to(noise.dtype)

        return torch.compiler.disable(sample) if impl == "torch" else sample

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
    return Workload(name, make, run, modes=(FORWARD,), rivals=rivals, **description)


WORKLOADS = [
    sampling(1, SIDE, LEVELS, 5, 32),
    sampling(16, SIDE, LEVELS, 5, 32),
    sampling(4, 8, 17, 5, 32, quick=("eager", f"{NAIVE_PIXELS} of 64 naive passes")),
]
