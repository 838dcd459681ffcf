"""One entry for each flow layer: what it computes and what that costs; `genkern layers` prints it as a table.

The tests run `genkern.testing.check_flow` on every entry, so that a layer which stands here keeps its word.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...ops._library import OPS
from ..memory import bytes_saved
from .actnorm import ActNorm, ChannelAffine
from .batch_norm import FlowBatchNorm
from .conv1x1 import InvertibleConv1x1
from .coupling import AdditiveCoupling, AffineCoupling
from .flow import Flow
from .split import Split
from .squeeze import Flatten, Squeeze, Unsqueeze

PICTURE, VECTOR = (6, 4, 4), (6,)


@dataclass(frozen=True)
class Entry:
    """A row of the table, and a small layer that shows it.

    Args:
        layer: the class's name.
        function: the density direction, in one formula.
        inverse: ``"closed form"``, or how the iteration works.
        log_det: its formula and what it costs.
        build: makes one; its networks are single linear maps, so that what is saved for the backward pass is the
            layer's own input and parameters.
        shape: of one sample.
        ops: the operations of `genkern.ops` that it runs on; none: plain PyTorch.
        derivatives: how often it can be differentiated.
        checks: arguments for `genkern.testing.check_flow`; ``context`` holds the shape of one sample's context.
    """

    layer: str
    function: str
    inverse: str
    log_det: str
    build: Callable[[], Flow]
    shape: tuple[int, ...] = PICTURE
    ops: tuple[str, ...] = ()
    derivatives: str = "first, second"
    checks: dict[str, Any] = field(default_factory=dict)

    def example(self) -> Flow:
        """The layer, the same every time."""
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            return self.build()

    def backends(self) -> str:
        """What its operations are written in; the linear algebra around them is PyTorch's."""
        on_gpu = ["Triton" if OPS[op].has_triton else "CUDA" for op in self.ops]
        return ", ".join(["C++", *dict.fromkeys(on_gpu)]) if self.ops else "PyTorch"

    def saved(self, batch: int = 8) -> float:
        """What a forward pass keeps for the backward pass, parameters apart, in multiples of its input."""
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(batch, *self.shape, generator=generator)
        context = self.context(batch)
        layer = self.example()
        layer.initialize(x, context)
        return bytes_saved(layer, x, context) / (x.numel() * x.element_size())

    def context(self, batch: int) -> Tensor | None:
        if "context" not in self.checks:
            return None
        return torch.randn(batch, *self.checks["context"], generator=torch.Generator().manual_seed(1))


CATALOGUE: list[Entry] = [
    Entry(
        "AdditiveCoupling",
        "y_b = x_b + t(x_a)",
        "closed form",
        "0",
        lambda: AdditiveCoupling(nn.Conv2d(3, 3, 1)),
        ops=("affine_coupling",),
    ),
    Entry(
        "AffineCoupling",
        "y_b = σ(s + 2) ⊙ x_b + t, with (s, t) of x_a; also e^s and e^(c tanh(s/c))",
        "closed form",
        "Σ ln σ(s + 2): O(D)",
        lambda: AffineCoupling(nn.Conv2d(3, 6, 1)),
        ops=("affine_coupling",),
    ),
    Entry(
        "ActNorm",
        "y = e^s x + b per channel, from the first batch",
        "closed form",
        "HW Σ s: O(C)",
        lambda: ActNorm(6),
        ops=("actnorm",),
    ),
    Entry(
        "ChannelAffine",
        "y = e^s x + b per channel",
        "closed form",
        "HW Σ s: O(C)",
        lambda: ChannelAffine(6),
        ops=("actnorm",),
    ),
    Entry(
        "FlowBatchNorm",
        "y = γ (x - μ) / √(v + ε) + β",
        "closed form, by the running statistics",
        "HW Σ (ln γ - ½ ln(v + ε)): O(C)",
        lambda: FlowBatchNorm(6),
        ops=("flow_batch_norm",),
    ),
    Entry(
        "InvertibleConv1x1",
        "y = W x at every site, W free or P L U",
        "closed form, W⁻¹ kept until W changes",
        "HW ln|det W|: O(C³), or O(C) by P L U; one call for a model",
        lambda: InvertibleConv1x1(6, "free"),
        ops=("lu_inverse", "plu_weight"),
    ),
    Entry("Squeeze", "[C, H, W] → [4C, H/2, W/2]", "closed form", "0", Squeeze, ops=("squeeze",)),
    Entry("Unsqueeze", "[4C, H, W] → [C, 2H, 2W]", "closed form", "0", Unsqueeze, (8, 2, 2), ops=("squeeze",)),
    Entry("Flatten", "[C, H, W] → [D]", "closed form", "0", lambda: Flatten(PICTURE)),
    Entry(
        "Split",
        "z_b = (x_b - μ(x_a)) / σ(x_a), the rest of the flow maps x_a",
        "closed form",
        "-Σ ln σ: O(D)",
        lambda: Split(nn.Conv2d(3, 6, 1)),
        ops=("affine_coupling",),
    ),
]


COLUMNS = ("layer", "density direction", "inverse", "log-determinant", "derivatives", "backends", "saved")


def rows() -> list[tuple[str, ...]]:
    """The catalogue as text, a cell for each of `COLUMNS`."""
    return [
        (e.layer, e.function, e.inverse, e.log_det, e.derivatives, e.backends(), f"{e.saved():.2g} x")
        for e in sorted(CATALOGUE, key=lambda entry: entry.layer)
    ]


def markdown() -> str:
    """The table of `docs/layers.md`."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *rows()]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
