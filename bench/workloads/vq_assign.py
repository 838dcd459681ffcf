"""Codes of a VQ-VAE's maps: the distance of every vector from the nearest of K codes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from genkern.ops import vq_assign

from ..registry import FORWARD, Function, Inputs, Rival, Workload, seeded

DIM = 64


def by_distances(x: Tensor, codebook: Tensor) -> Tensor:
    """What one writes without the op."""
    return torch.cdist(x, codebook).min(1).values.square()


def product() -> Callable[[Tensor, Tensor], Tensor]:
    kept: dict[torch.Size, Tensor] = {}

    def run(x: Tensor, codebook: Tensor) -> Tensor:
        shape = torch.Size((len(x), len(codebook)))
        out = kept.get(shape)
        if out is None or out.dtype != x.dtype or out.device != x.device:
            out = kept[shape] = x.new_empty(shape)
        return torch.mm(x, codebook.T, out=out)

    return run


def lucidrains(codes: int) -> Function:
    """vector-quantize-pytorch's layer with its codebook at rest; it also looks the codes up."""
    from vector_quantize_pytorch import VectorQuantize

    layer: Any = VectorQuantize(DIM, codes).eval()

    def run(x: Tensor, codebook: Tensor) -> Tensor:
        layer._codebook.embed.data = codebook.detach().unsqueeze(0)
        return layer(x.unsqueeze(0))[0]

    return run


def workload(rows: int, codes: int, *, statistics: bool = False, **description: Any) -> Workload:
    def make(device: torch.device, dtype: torch.dtype) -> Inputs:
        return seeded((rows, DIM), device, dtype), seeded((codes, DIM), device, dtype)

    def run(impl: str) -> Function:
        if impl == "torch":
            return by_distances
        return lambda x, codebook: vq_assign(x, codebook, distance=True, statistics=statistics).distance

    rivals = {
        "bare GEMM": Rival(product, same_values=False),
        "vector-quantize-pytorch": Rival(lambda: lucidrains(codes), same_values=False),
    }
    name = f"{rows}x{DIM}, {codes} codes{', statistics' if statistics else ''}"
    return Workload(
        name, make, run, modes=(FORWARD,), flops=2 * rows * codes * DIM, rivals=rivals, compiles=(), **description
    )


WORKLOADS = [
    workload(16384, 1024, quick=("eager",)),
    workload(16384, 1024, statistics=True),
    workload(16384, 8192),
    workload(65536, 1024),
    workload(16, 8, launch=True),
]
SWEEP = [workload(n, 1024) for n in (64, 512, 4096, 32768)]
