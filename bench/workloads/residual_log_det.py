"""The log-determinant of a residual block: the Neumann gradient beside the same written plainly, and beside autograd.

`eager` is the same estimate in one graph; `autograd of the series` differentiates the truncated series itself, an
estimate of the same gradient whose memory grows with the number of terms. All do the same convolutions; genkern's row
keeps half of what eager keeps, and compiled code gains by fusing the passes of the activations between convolutions.
`recomputing`, the layer's default, keeps three tensors like x, and runs the network once more in the backward pass.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from genkern.nn import LipSwish, SpectralConv2d
from genkern.nn.flows.residual import estimated

from ..registry import TRAIN, Function, Inputs, Rival, Workload, seeded, shape_name


def block(shape: tuple[int, ...], hidden: int) -> nn.Module:
    channels, size = shape[1], (shape[2], shape[3])
    layers = SpectralConv2d(channels, hidden, 3, size), LipSwish(), SpectralConv2d(hidden, hidden, 1, size), LipSwish()
    return nn.Sequential(*layers, SpectralConv2d(hidden, channels, 3, size)).eval()


def signs(x: Tensor) -> Tensor:
    """A Rademacher vector of the input's own, the same for everyone."""
    return torch.where(x.detach() < 0, -1.0, 1.0).to(x.dtype)


def linearized(g: nn.Module, x: Tensor) -> tuple[Tensor, Callable[[Tensor, bool], Tensor]]:
    """The value, and products with the transposed Jacobian, of which a graph is made or not; in traced code by vjp."""
    if torch.compiler.is_compiling():
        value, pull_back = torch.func.vjp(g, x)[:2]
        return value, lambda w, graph: pull_back(w)[0] if graph else pull_back(w)[0].detach()
    x = x if x.requires_grad else x.detach().requires_grad_()
    with torch.enable_grad():
        value = g(x)
    return value, lambda w, graph: torch.autograd.grad(value, x, w, retain_graph=True, create_graph=graph)[0]


def plain(x: Tensor, g: nn.Module, terms: int) -> tuple[Tensor, Tensor]:
    v = w = signs(x)
    log_det, neumann = x.new_zeros(len(x)), torch.zeros_like(v)
    value, product = linearized(g, x)
    for k in range(1, terms + 1):
        neumann = neumann - (-1) ** k * w
        w = product(w, False)
        log_det = log_det - (-1) ** k / k * (w * v).flatten(1).sum(1)
    gradient = (product(neumann, True) * v).flatten(1).sum(1)
    return x + value, log_det + gradient - gradient.detach()


def by_autograd(x: Tensor, g: nn.Module, terms: int) -> tuple[Tensor, Tensor]:
    x = x if x.requires_grad else x.detach().requires_grad_()
    v = w = signs(x)
    value, log_det = g(x), x.new_zeros(len(x))
    for k in range(1, terms + 1):
        (w,) = torch.autograd.grad(value, x, w, create_graph=True)
        log_det = log_det - (-1) ** k / k * (w * v).flatten(1).sum(1)
    return x + value, log_det


def workload(shape: tuple[int, ...], hidden: int, terms: int, **description: Any) -> Workload:
    def make(device: torch.device, dtype: torch.dtype) -> Inputs:
        return seeded(shape, device, dtype), block(shape, hidden).to(device, dtype)

    def run(impl: str) -> Function:
        if impl == "torch":
            return lambda x, g: plain(x, g, terms)
        return lambda x, g: ours(x, g, recompute=False)

    def ours(x: Tensor, g: nn.Module, recompute: bool) -> tuple[Tensor, Tensor]:
        return estimated(g, x, None, signs(x), [1.0] * terms, recompute=recompute)

    series: Function = lambda x, g: by_autograd(x, g, terms)  # noqa: E731
    recomputing: Function = lambda x, g: ours(x, g, recompute=True)  # noqa: E731
    rivals = {
        "autograd of the series": Rival(lambda: series, same_values=False, modes=(TRAIN,)),
        "recomputing": Rival(lambda: recomputing, modes=(TRAIN,)),
    }
    name = f"{terms} terms, hidden {hidden}, {shape_name(shape)}"
    return Workload(name, make, run, modes=(TRAIN,), rivals=rivals, **description)


WORKLOADS = [workload((8, 12, 16, 16), 64, terms) for terms in (2, 8)]
SWEEP = [workload((b, 12, 16, 16), 64, 4) for b in (1, 4, 16)]
REASONS = {
    "eager": "nearly all of it is the block's convolutions and their derivatives, the same in both; genkern keeps half"
    " as much for the backward pass",
    "compile": "as for eager; compiled code fuses the activations between the convolutions, which genkern leaves to"
    " PyTorch",
    "autograd of the series": "as for eager: what is kept does not grow with the terms",
}
