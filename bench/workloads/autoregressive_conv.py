"""Masked convolutions of an emerging flow (32x32 pictures, first level: 12 channels of 32x32) and their inverses."""

import math

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from genkern.ops import autoregressive_conv

from ..registry import FORWARD, MODES, Function, Inputs, Rival, Workload, seeded, shape_name

FIRST, LAST = (8, 12, 32, 32), (64, 48, 8, 8)


def kernel(channels: int, size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Near the identity, as in a flow that has been trained a little."""
    weight = 0.1 / math.sqrt(channels) * torch.randn(channels, channels, size, size)
    weight[:, :, size // 2, size // 2] += torch.eye(channels)
    return weight.to(device, dtype)


def bare_conv() -> Function:
    return lambda x, weight: (conv2d(x, weight, padding=weight.shape[-1] // 2),)


BARE = {"bare conv2d": Rival(bare_conv, same_values=False)}


def convolution(shape: tuple[int, ...], *, size: int = 3, mask: str = "raster", inverse: bool = False, **description):
    """Eager is, for the inverse, a vectorised wavefront; `torch.compile` unrolls its fronts, which takes minutes."""

    def make(device: torch.device, dtype: torch.dtype) -> Inputs:
        return seeded(shape, device, dtype), kernel(shape[1], size, device, dtype)

    def run(impl: str) -> Function:
        return lambda x, weight: autoregressive_conv(x, weight, mask=mask, inverse=inverse, impl=impl)

    live = size // 2 * (size if mask == "raster" else size // 2 + 1) + size // 2 + 0.5
    name = f"{mask} {size}x{size} {'inverse ' if inverse else ''}{shape_name(shape)}"
    flops = int(2 * live * shape[1] * math.prod(shape))
    return Workload(name, make, run, flops=flops, rivals=BARE, compiles=() if inverse else MODES, **description)


WORKLOADS = [
    convolution(FIRST, modes=MODES),
    convolution(FIRST, inverse=True, modes=MODES, quick=("eager", "bare conv2d")),
    convolution(FIRST, mask="square", inverse=True, modes=(FORWARD,)),
    convolution(FIRST, size=5, inverse=True, modes=(FORWARD,)),
    convolution(LAST, inverse=True, modes=(FORWARD,)),
    convolution((4, 8, 4, 4), inverse=True, modes=(FORWARD,), launch=True),
]
SWEEP = [convolution((8, 12, s, s), inverse=True, modes=(FORWARD,)) for s in (4, 8, 16, 32, 64)]
REASONS = {
    "compile": "the convolution is PyTorch's in both; masked weight and log-determinant are one call in each, and a"
    " compiled call is shorter",
    "bare conv2d": "it masks nothing and has no log-determinant; the difference is the call that makes both",
}
