"""Sampling from Gated PixelCNN, 28x28 pixels of 256 levels, 5 layers of 32 channels; and from PixelCNN++, by a mixture.

`eager` is cached sampling in PyTorch, some forty kernels for each pixel; a graph of all of them together would take
hours to compile.
"""

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from genkern.models.autoregressive import gated_pixelcnn, pixelcnn_pp
from genkern.models.autoregressive._base import AutoregressiveModel
from genkern.nn.autoregressive import cached
from genkern.nn.autoregressive.sampling import naive

from ..registry import FORWARD, Function, Inputs, Rival, Workload

SIDE, LEVELS = 28, 256
NAIVE_PIXELS = (
    4  # drawn by naive sampling, each by one pass over the whole picture; the rest of its time is more of them
)


def gated(side: int, levels: int, layers: int, channels: int) -> AutoregressiveModel:
    config = gated_pixelcnn.Config((1, side, side), levels, layers=layers, channels=channels, head=channels)
    return gated_pixelcnn.GatedPixelCNN(config).eval()


def plus_plus(side: int, levels: int) -> AutoregressiveModel:
    config = pixelcnn_pp.Config((1, side, side), levels, resnets=1, filters=32, mixtures=5, resolutions=2)
    return pixelcnn_pp.PixelCNNPP(config).eval()


@torch.no_grad()
def centred(noise: Tensor, model: AutoregressiveModel) -> Tensor:
    """Other uniform numbers with the same sample: those in the middle of a level, so that rounding decides nothing."""
    exact = copy.deepcopy(model).double()
    x, free = picture(exact, noise)
    x = cached(network_of(exact), x, noise, free, levels=model.config.levels or 2, head=model.head_kind)
    params = exact.logits(x)
    if model.head_kind == "categorical":
        probability = params.softmax(1)
        level = x.long().unsqueeze(1)
        return (probability.cumsum(1) - probability / 2).gather(1, level).squeeze(1)
    logits, means, log_scales = params.chunk(3, dim=1)  # [B, K, H, W] each
    probability = logits.softmax(1)
    chosen = (probability.cumsum(1) < noise[:, :1]).sum(1, keepdim=True)
    middle = (probability.cumsum(1) - probability / 2).gather(1, chosen)
    distance = (exact.scale(x) - means.gather(1, chosen)) / log_scales.clamp(min=-7).gather(1, chosen).exp()
    return torch.cat([middle, distance.clamp(-10, 10).sigmoid()], dim=1)


def network_of(model: AutoregressiveModel) -> nn.Module:
    network = model.network
    assert isinstance(network, nn.Module)
    return network


def picture(model: AutoregressiveModel, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels to begin with, and that all of them are free."""
    return model.canvas(len(noise), noise.device, None, None, 0)


def sampling(
    name: str, batch: int, side: int, levels: int, model_of: Callable[..., AutoregressiveModel], **description: Any
) -> Workload:
    def make(device: torch.device, dtype: torch.dtype) -> Inputs:
        model = model_of(side, levels).to(device, dtype)
        noise = torch.rand(batch, *model.noise_shape()).to(device)
        return centred(noise, model).to(dtype), model

    def run(impl: str) -> Function:
        def sample(noise: Tensor, model: AutoregressiveModel) -> Tensor:
            x, free = picture(model, noise)
            return cached(network_of(model), x, noise, free, levels=levels, head=model.head_kind, impl=impl).to(
                noise.dtype
            )

        return sample

    def front() -> Function:
        def sample(noise: Tensor, model: AutoregressiveModel) -> Tensor:
            x, free = picture(model, noise)
            return cached(network_of(model), x, noise, free, levels=levels, head=model.head_kind, method="wavefront")

        return sample

    def some_pixels() -> Function:
        def sample(noise: Tensor, model: AutoregressiveModel) -> Tensor:
            x, free = picture(model, noise)
            free.view(-1)[NAIVE_PIXELS:] = False
            return naive(model.logits, model.draw, x, noise, free, joint=model.joint)

        return sample

    rivals = {
        f"{NAIVE_PIXELS} of {side * side} naive passes": Rival(some_pixels, same_values=False),
        "wavefront": Rival(front, same_values=False),
    }
    name = f"batch {batch} of {side}x{side}, {name}"
    return Workload(name, make, run, modes=(FORWARD,), compiles=(), rivals=rivals, **description)


def stacks(batch: int, side: int, levels: int, layers: int, channels: int, **description: Any) -> Workload:
    model_of = functools.partial(gated, layers=layers, channels=channels)
    return sampling(f"{layers} layers of {channels}", batch, side, levels, model_of, **description)


WORKLOADS = [
    stacks(1, SIDE, LEVELS, 5, 32),
    stacks(16, SIDE, LEVELS, 5, 32),
    stacks(4, 8, 17, 5, 32, quick=("eager", f"{NAIVE_PIXELS} of 64 naive passes")),
    stacks(1, 4, 4, 2, 4, launch=True),
    sampling("mixtures of PixelCNN++", 1, SIDE, LEVELS, plus_plus),
    sampling("mixtures of PixelCNN++", 16, SIDE, LEVELS, plus_plus),
]
SWEEP = [stacks(b, 8, 17, 5, 32) for b in (1, 4, 16, 64)]
