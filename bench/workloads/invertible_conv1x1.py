"""Glow's 1x1 convolution, alone and with the activation normalisation before it; all determinants of a model."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from genkern.ops import actnorm, folded_weight, inverse_and_log_abs_det, invertible_conv1x1, log_abs_det

from ..registry import FORWARD, MODES, Function, Inputs, Rival, Workload, seeded, shape_name

GLOW = (64, 48, 16, 16)


def mixing(channels: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Near a rotation, but with a determinant that is not 1."""
    noise = torch.randn(channels, channels, dtype=torch.float64)
    return (1.1 * torch.linalg.qr(noise).Q + 0.02 * noise).to(device, dtype)


def products(shape: tuple[int, ...]) -> int:
    return 2 * shape[1] * math.prod(shape)


def bare_conv() -> Function:
    return lambda x, weight, *others: (conv2d(x, weight[:, :, None, None]),)


BARE = {"bare conv2d": Rival(bare_conv, same_values=False)}


def convolution(shape: tuple[int, ...], inverse: bool = False, **description: Any) -> Workload:
    def make(device: torch.device, dtype: torch.dtype) -> Inputs:
        return seeded(shape, device, dtype), mixing(shape[1], device, dtype)

    def run(impl: str) -> Function:
        return lambda x, weight: invertible_conv1x1(x, weight, inverse=inverse, impl=impl)

    modes = (FORWARD,) if inverse else MODES
    name = f"{'inverse ' if inverse else ''}{shape_name(shape)}"
    return Workload(name, make, run, flops=products(shape), modes=modes, **description)


def folded(shape: tuple[int, ...], **description: Any) -> Workload:
    """y = W (e^s x + b): two layers of a Glow step, the second of which is all that is paid for."""

    def make(device: torch.device, dtype: torch.dtype) -> Inputs:
        channels = shape[1:2]
        parameters = 0.1 * seeded(channels, device, dtype), seeded(channels, device, dtype)
        return seeded(shape, device, dtype), mixing(shape[1], device, dtype), *parameters

    def run(impl: str) -> Function:
        def two_layers(x: Tensor, weight: Tensor, log_scale: Tensor, bias: Tensor):
            h, first = actnorm(x, log_scale, bias, impl="torch")
            y, second = invertible_conv1x1(h, weight, impl="torch")
            return y, first + second

        def one_layer(x: Tensor, weight: Tensor, log_scale: Tensor, bias: Tensor):
            weight, shift, value = folded_weight(weight, log_scale, bias)
            return invertible_conv1x1(x, weight, shift, log_abs_det=value)

        return two_layers if impl == "torch" else one_layer

    name = f"after actnorm {shape_name(shape)}"
    return Workload(name, make, run, flops=products(shape), rivals=BARE, **description)


def determinants(count: int, channels: int, inverses: bool) -> Workload:
    """All weights of a model at once, as a list of parameters."""

    def make(device: torch.device, dtype: torch.dtype) -> Inputs:
        return tuple(mixing(channels, device, dtype) for _ in range(count))

    def run(impl: str) -> Function:
        if not inverses:
            return lambda *weights: log_abs_det(weights, impl=impl)

        def both(*weights: Tensor):
            found, value = inverse_and_log_abs_det(weights, impl=impl)
            return (*found, value)

        return both

    name = f"{'inverse and ' if inverses else ''}log_abs_det {count} of {channels}x{channels}"
    modes = (FORWARD,) if inverses else MODES
    return Workload(name, make, run, flops=count * 2 * channels**3 // 3, modes=modes)


WORKLOADS = [
    convolution(GLOW, rivals=BARE),
    convolution((64, 12, 16, 16), rivals=BARE),
    convolution((64, 96, 16, 16), rivals=BARE),
    convolution(GLOW, inverse=True),
    folded(GLOW, quick=("eager", "bare conv2d")),
    folded((1, 12, 16, 16)),
    determinants(96, 48, inverses=False),
    determinants(96, 48, inverses=True),
    convolution((4, 8, 2, 2), launch=True),
]
SWEEP = [convolution((b, 48, 16, 16)) for b in (1, 4, 16, 64, 256)]
REASONS = {
    "bare conv2d": "it is the product alone, without a log-determinant or a folded normalisation, in a blocked layout"
    " that is faster for 48 channels and more; the matrix product here is faster for fewer",
}
