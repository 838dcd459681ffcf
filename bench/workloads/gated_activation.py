"""Gates of Gated PixelCNN: 64 channels of 32x32, alone, and in the horizontal stack with class, bias and link."""

import torch
from torch import Tensor

from genkern.ops import gated_activation

from ..registry import Function, Inputs, Workload, seeded, shape_name

PIXELCNN, TINY = (32, 128, 32, 32), (1, 8)


def gate(shape: tuple[int, ...], **description: object) -> Workload:
    def make(device: torch.device, dtype: torch.dtype) -> Inputs:
        return (seeded(shape, device, dtype),)

    def run(impl: str) -> Function:
        return lambda x: gated_activation(x, impl=impl)

    return Workload(shape_name(shape), make, run, **description)  # type: ignore[arg-type]


def with_terms(shape: tuple[int, ...]) -> Workload:
    def make(device: torch.device, dtype: torch.dtype) -> Inputs:
        sizes = (shape, shape[1:2], shape[:2], shape)
        return tuple(seeded(size, device, dtype) for size in sizes)

    def run(impl: str) -> Function:
        def apply(x: Tensor, bias: Tensor, condition: Tensor, link: Tensor) -> Tensor:
            return gated_activation(x, bias=bias, condition=condition, link=link, impl=impl)

        return apply

    return Workload(f"all terms {shape_name(shape)}", make, run)


WORKLOADS = [gate(PIXELCNN, quick=("eager", "compile")), with_terms(PIXELCNN), gate(TINY, launch=True)]
SWEEP = [gate((b, 64, 28, 28)) for b in (1, 4, 16, 64)]
