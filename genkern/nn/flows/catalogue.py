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
from ..autoregressive import MADE
from ..memory import bytes_saved
from .actnorm import ActNorm, ChannelAffine
from .autoregressive import InverseAutoregressive, MaskedAutoregressive
from .batch_norm import FlowBatchNorm
from .continuous import CNF
from .conv1x1 import InvertibleConv1x1
from .coupling import AdditiveCoupling, AffineCoupling
from .emerging import AutoregressiveConv2d, EmergingConv2d
from .flow import Flow
from .lipschitz import LipSwish, SpectralLinear
from .periodic import PeriodicConv2d
from .permutation import Householder, Permutation
from .planar import Planar, Radial
from .residual import ExactLogDet, ResidualFlow
from .spline import ElementwiseSpline, SplineCoupling
from .split import Split
from .squeeze import Flatten, Squeeze, Unsqueeze
from .sylvester import Sylvester
from .velocity import VelocityNetwork

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
        traces: what `torch.compile` and `torch.export` take of it.
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
    traces: str = "whole"
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


def residual_network(size: int) -> nn.Module:
    return nn.Sequential(SpectralLinear(size, 8, bound=0.8), LipSwish(), SpectralLinear(8, size, bound=0.8))


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
    Entry(
        "AutoregressiveConv2d",
        "y = W * x, k x k, W masked to see what is before a pixel (or after it)",
        "closed form: a triangular solve along the wavefront, in one call",
        "HW Σ ln d: O(C)",
        lambda: AutoregressiveConv2d(6),
        ops=("autoregressive_solve",),
    ),
    Entry(
        "EmergingConv2d",
        "y = W₂ * W₁ * (P x), k x k of opposite orders on a 1x1",
        "closed form: two triangular solves and P⁻¹",
        "HW (ln|det P| + Σ ln d₁ d₂): O(C)",
        lambda: EmergingConv2d(6),
        ops=("autoregressive_solve", "lu_inverse", "plu_weight"),
    ),
    Entry(
        "PeriodicConv2d",
        "y = W * x on a torus, k x k",
        "closed form: a linear solve at each frequency",
        "Σ_f ln|det Ŵ_f|: O(HW C³)",
        lambda: PeriodicConv2d(6),
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
    Entry(
        "CNF",
        "dz/dt = f(z, t) from z(0) = x to z(1)",
        "the same equation from 1 to 0, to the solver's tolerance",
        "∫ tr ∂f/∂z dt: at each evaluation D vector-Jacobian products, or one (estimated)",
        lambda: CNF(VelocityNetwork(VECTOR, hidden=6, layers=1), divergence="exact", solver="rk4", steps=8),
        VECTOR,
        derivatives="first; higher ones through the solver",
        traces="whole with a fixed step; an adaptive solver asks the host",
        checks={"round_trip": (1e-8, 1e-5), "compiles": False},  # tracing so many steps takes long
    ),
    Entry(
        "SplineCoupling",
        "y_b = a monotone rational-quadratic spline of x_b with K bins, all its knots and slopes of x_a",
        "closed form",
        "Σ ln dy/dx: O(D)",
        lambda: SplineCoupling(nn.Conv2d(3, 3 * 23, 1)),
        ops=("rational_quadratic_spline",),
    ),
    Entry(
        "ElementwiseSpline",
        "y = a learned monotone spline of x, one for each position",
        "closed form",
        "Σ ln dy/dx: O(D)",
        lambda: ElementwiseSpline(VECTOR),
        VECTOR,
        ops=("rational_quadratic_spline",),
    ),
    Entry(
        "MaskedAutoregressive",
        "z_d = T(x_d; p_d(x_<d)): affine, or any elementwise transform",
        "closed form; each hidden unit of the MADE computed once, in one call",
        "Σ ln |T'|: O(D)",
        lambda: MaskedAutoregressive(MADE(6, 8, outputs=2, context=2, activation="tanh", order="random")),
        VECTOR,
        ops=("affine_coupling", "made_inverse"),
        checks={"context": (2,)},
    ),
    Entry(
        "InverseAutoregressive",
        "x_d = T(z_d; p_d(z_<d)) solved for z, gated affine: σ z + (1 - σ) m",
        "closed form; density by the recursion in one call",
        "-Σ ln σ: O(D)",
        lambda: InverseAutoregressive(MADE(6, (8, 8, 8), outputs=2, residual=True, activation="tanh")),
        VECTOR,
        ops=("affine_coupling", "made_inverse"),
    ),
    Entry("Permutation", "y_c = x_π(c)", "closed form", "0", lambda: Permutation(6, "random")),
    Entry(
        "Householder",
        "y = Q x at every site, Q = Π (I - 2 v vᵀ)",
        "closed form, Qᵀ",
        "0",
        lambda: Householder(6),
    ),
    Entry(
        "Planar",
        "y = x + u' tanh(w·x + b), with w·u' = softplus(w·u) - 1",
        "a monotone root in w·x, by Newton's method in a bracket, to the last bit",
        "ln(t² + (1 - t²) softplus(w·u)), t = tanh(w·x + b): O(D)",
        lambda: Planar(6),
        VECTOR,
        ops=("planar",),
    ),
    Entry(
        "Radial",
        "y = x + β (x - x₀) / (α + r), with r = ‖x - x₀‖ and β > -α",
        "closed form, a quadratic in r",
        "(D - 1) ln(1 + β / (α + r)) + ln(1 + αβ / (α + r)²): O(D)",
        lambda: Radial(6),
        VECTOR,
        ops=("radial",),
    ),
    Entry(
        "Sylvester",
        "y = x + Q R tanh(R̃ Qᵀ x + b), R and R̃ triangular, Q orthogonal",
        "back substitution, a monotone root for each of M unknowns",
        "Σ ln(1 + (1 - t²) r r̃): O(M)",
        lambda: Sylvester(6, 3),
        VECTOR,
    ),
    Entry(
        "ResidualFlow",
        "y = x + g(x), Lip(g) < 1",
        "fixed point, to a tolerance or an error; gradients by the implicit function",
        "exact: D products; else Hutchinson's trace of a series, unbiased by a roulette, with the Neumann gradient",
        lambda: ResidualFlow(residual_network(3), log_det=ExactLogDet()),
        (3,),
        derivatives="first, second; with an estimate, and through the inverse: first",
        traces="whole; the length of a roulette and of the inverse's iteration are the host's",
    ),
]


COLUMNS = (
    "layer",
    "density direction",
    "inverse",
    "log-determinant",
    "derivatives",
    "compile, export",
    "backends",
    "saved",
)


def rows() -> list[tuple[str, ...]]:
    """The catalogue as text, a cell for each of `COLUMNS`."""
    return [
        (e.layer, e.function, e.inverse, e.log_det, e.derivatives, e.traces, e.backends(), f"{e.saved():.2g} x")
        for e in sorted(CATALOGUE, key=lambda entry: entry.layer)
    ]


def markdown() -> str:
    """The table of `docs/layers.md`."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *rows()]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
