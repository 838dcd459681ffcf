"""Draws of all pixels of a picture from 256-way logits (a pass of Jacobi sampling), and of tokens from a codebook."""

import torch
from torch import Tensor

from genkern.ops import categorical_sample

from ..registry import FORWARD, Function, Inputs, Workload, seeded, shape_name


def settled_noise(logits: Tensor) -> Tensor:
    """Uniform numbers in the middle of the interval of a likely class, so that rounding moves none to another class."""
    probabilities = logits.softmax(-1)  # [*, V]
    likely = torch.where(probabilities > 1e-4, probabilities, 0.0).flatten(0, -2)
    chosen = torch.multinomial(likely, 1).view(*logits.shape[:-1], 1)
    middle = probabilities.cumsum(-1) - probabilities / 2
    return middle.gather(-1, chosen).squeeze(-1).float()


def workload(shape: tuple[int, ...], dim: int, **description: object) -> Workload:
    def make(device: torch.device, dtype: torch.dtype) -> Inputs:
        logits = seeded(shape, device, dtype)
        return logits, settled_noise(logits.cpu().double().movedim(dim, -1)).to(device)

    def run(impl: str) -> Function:
        def apply(logits: Tensor, noise: Tensor) -> Tensor:
            return categorical_sample(logits, dim=dim, noise=noise, impl=impl)[1]

        return apply

    return Workload(shape_name(shape), make, run, modes=(FORWARD,), **description)  # type: ignore[arg-type]


WORKLOADS = [
    workload((16, 256, 3, 16, 16), 1, quick=("eager", "compile")),
    workload((64, 256, 512), -1),
    workload((4, 8), -1, launch=True),
]
SWEEP = [workload((b, 256), -1) for b in (16, 128, 1024, 8192)]
