"""Residual flows: z = x + g(x) with a contraction g, its log-determinant as a series, its inverse by iteration."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ... import random
from .flow import Flow
from .lipschitz import advance, held
from .replay import Autocast, evaluating, noise_of, rademacher
from .traced import linearized, unit


@dataclass(frozen=True)
class ExactLogDet:
    """The Jacobian column by column: D vector-Jacobian products and a determinant; derivatives of any order."""


@dataclass(frozen=True)
class PowerSeries:
    """The first ``terms`` of the power series: a bias that shrinks like ``Lip(g) ** terms``."""

    terms: int = 10

    def __post_init__(self) -> None:
        if self.terms < 1:
            raise ValueError(f"PowerSeries: terms must be at least 1; got {self.terms}.")

    def weights(self) -> list[float]:
        return [1.0] * self.terms


@dataclass(frozen=True)
class RussianRoulette:
    """The first ``terms``, then as many more as a geometric variable says, weighted so that there is no bias.

    The number is drawn on the host, the same for all samples (a batch would wait for its longest series); the k-th
    further term is reached with probability ``(1 - p) ** (k - 1)`` and weighs one over that. Chen et al. 2019
    (arXiv:1906.02735), eq. 6.
    """

    terms: int = 2
    p: float = 0.5

    def __post_init__(self) -> None:
        if self.terms < 0 or not 0 < self.p < 1:
            raise ValueError(
                f"RussianRoulette: terms must be at least 0 and p between 0 and 1; got {self.terms} and {self.p}."
            )

    def weights(self) -> list[float]:
        u = random.uniform(random.key_from(device="cpu"), (1,), dtype=torch.float64).item()
        more = 1 + int(math.log1p(-u) / math.log1p(-self.p))  # P(more > k) = P(u >= 1 - (1 - p)^k) = (1 - p)^k
        return [1.0] * self.terms + [(1 - self.p) ** -k for k in range(more)]


Estimator = ExactLogDet | PowerSeries | RussianRoulette


class ResidualFlow(Flow):
    r"""``z = x + g(x)`` for a network ``g`` with Lipschitz constant below 1.

    .. math:: \log\det(I + J) = \sum_{k \ge 1} \frac{(-1)^{k+1}}{k} \operatorname{tr} J^k
              = \mathbb{E}\Bigl[\sum_{k=1}^{N} \frac{(-1)^{k+1}}{k\,P(N \ge k)}\, v^\top J^k v\Bigr], \qquad
              \partial \log\det(I + J) = \mathbb{E}\Bigl[\sum_{k=0}^{N - 1} \frac{(-1)^k}{P(N > k)}\,
              v^\top J^k \, (\partial J) \, v\Bigr]

    The second form is the Neumann series of the gradient: the vector that stands left of :math:`\partial J` is summed
    without a graph, so that what is kept for the backward pass is x and two vectors of its shape, however many terms
    there are and whatever the network is; the network is run again in the backward pass, unless ``recompute=False``.
    Every sample has the weight that the loss gives it.

    Args:
        network: ``g``, of layers such as `SpectralLinear` and `LipSwish`; deterministic, and without sums over the
            batch. It gets ``(x)``, or ``(x, context)`` when there is a context.
        log_det: `ExactLogDet`, `PowerSeries` or `RussianRoulette` in training.
        evaluation: the same in evaluation mode; by default 20 terms before the roulette, or `ExactLogDet` where that is
            what training uses.
        noise: ``"rademacher"`` or ``"gaussian"``, the distribution of v. It follows from keys that are drawn from
            torch's generator, and from the index of the sample; `error_of` says how much it matters.
        recompute: run the network again in the backward pass; False: keep what its layers save, which is faster, and
            flat in the number of terms too.
        tolerance: of the inverse: the largest change of an element in one iteration, relative to one plus the largest
            element; by default 16 roundings of the dtype.
        max_iterations: of the inverse, which raises when they do not suffice.

    Derivatives: with `ExactLogDet` any order in `forward`; otherwise, and in `inverse` (by the implicit function
    theorem), first derivatives only: a second one raises. `torch.compile` and `torch.export` take `forward` whole with
    `ExactLogDet` and `PowerSeries`; the length of a roulette, and of the inverse's iteration, is the host's: there a
    compiled graph breaks, and an export raises. Behrmann et al. 2019 (arXiv:1811.00995); Chen et al. 2019
    (arXiv:1906.02735), eq. 6-9.

    >>> from genkern.nn import LipSwish, SpectralLinear
    >>> layer = ResidualFlow(nn.Sequential(SpectralLinear(2, 16), LipSwish(), SpectralLinear(16, 2)))
    >>> z, log_det = layer(torch.randn(8, 2))
    """

    draws_noise = True

    def __init__(
        self,
        network: nn.Module,
        *,
        log_det: Estimator | None = None,
        evaluation: Estimator | None = None,
        noise: str = "rademacher",
        recompute: bool = True,
        tolerance: float | None = None,
        max_iterations: int = 2000,
    ):
        super().__init__()
        if noise not in ("rademacher", "gaussian"):
            raise ValueError(f"ResidualFlow: noise must be 'rademacher' or 'gaussian'; got {noise!r}.")
        self.network, self.noise = network, noise
        self.log_det = RussianRoulette() if log_det is None else log_det
        if evaluation is None:
            evaluation = self.log_det if isinstance(self.log_det, ExactLogDet) else RussianRoulette(terms=20)
        self.evaluation = evaluation
        self.recompute, self.tolerance, self.max_iterations = recompute, tolerance, max_iterations
        self.sample_offset = 0

    @property
    def estimator(self) -> Estimator:
        return self.log_det if self.training else self.evaluation

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        estimator = self.estimator
        if torch.compiler.is_compiling() and not isinstance(estimator, RussianRoulette):
            advance(self.network)  # buffers cannot move inside of a derivative that is being traced
            with held(self.network):
                if isinstance(estimator, ExactLogDet):
                    return exact(self._g(context), x)
                return traced(self._g(context), x, self.vectors(x), estimator.weights())
        if isinstance(estimator, ExactLogDet):
            return exact(self._g(context), x)
        if torch.compiler.is_exporting():
            raise RuntimeError(
                "ResidualFlow: the length of a roulette is drawn on the host, which an exported program does without; "
                "use evaluation=PowerSeries(20) or ExactLogDet()."
            )
        return self._estimated(x, context)

    @torch.compiler.disable
    def _estimated(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        assert not isinstance(self.estimator, ExactLogDet)
        weights = self.estimator.weights()
        return estimated(self.network, x, context, self.vectors(x), weights, recompute=self.recompute)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        with held(self.network):
            x = self._solve(z, context)
            return x, -self(x, context)[1]

    @torch.compiler.disable
    def _solve(self, z: Tensor, context: Tensor | None) -> Tensor:
        names = [name for name, _ in self.network.named_parameters()]
        tolerance = 16 * torch.finfo(z.dtype).eps if self.tolerance is None else self.tolerance
        settings = (tolerance, self.max_iterations)
        return _FixedPoint.apply(self.network, settings, names, z, context, *self.network.parameters())

    def vectors(self, x: Tensor) -> Tensor:
        """The v of the estimators, like ``x``."""
        key = random.key_from(device=x.device)
        if self.noise == "gaussian":
            return random.normal(key, x.shape, dtype=x.dtype, sample_offset=self.sample_offset)
        return rademacher(key, x, self.sample_offset)

    def _g(self, context: Tensor | None) -> Callable[[Tensor], Tensor]:
        return lambda x: self.network(x) if context is None else self.network(x, context)

    def keeps_own_memory(self) -> bool:
        return not isinstance(self.estimator, ExactLogDet)

    @torch.no_grad()
    def error_of(
        self, x: Tensor, context: Tensor | None = None, *, key: Tensor | None = None, draws: int = 16
    ) -> tuple[Tensor, Tensor]:
        """Mean of the log-determinant over several draws of noise in evaluation, and its standard error, ``[B]``."""
        key = random.key_from(device=x.device) if key is None else key
        with evaluating(self):
            return mean_and_error([self(x, context)[1] for _ in several_draws(self, draws, key)])

    def extra_repr(self) -> str:
        return f"log_det={self.log_det}, evaluation={self.evaluation}, noise={self.noise!r}"


# -- several draws of an estimate --------------------------------------------------------------------------------------


def several_draws(flow: nn.Module, draws: int, key: Tensor, sample_offset: int = 0) -> Iterator[int]:
    """Steps, in each of which the flow draws the noise of a key of its own."""
    for draw in range(draws):
        with noise_of(flow, random.fold_in(key, draw), sample_offset):
            yield draw


def mean_and_error(values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The mean of independent draws and its standard error."""
    stacked = torch.stack(list(values))
    return stacked.mean(0), stacked.std(0) / len(values) ** 0.5


# -- log-determinants --------------------------------------------------------------------------------------------------


def exact(g: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """``x + g(x)`` and log|det(I + J)| from the whole Jacobian."""
    size, graph = x.shape[1:].numel(), torch.is_grad_enabled()
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        value, product = linearized(g, x)
        rows = [product(unit(value, i)) for i in range(size)]
    else:
        with torch.enable_grad():
            start = x if graph and x.requires_grad else x.detach().requires_grad_()
            value = g(start)
            rows = [
                torch.autograd.grad(value, start, unit(value, i), retain_graph=True, create_graph=graph)[0]
                for i in range(size)
            ]
        value = value if graph else value.detach()
    jacobian = torch.stack([row.flatten(1) for row in rows], 1)  # [B, D, D]
    jacobian = jacobian.to(torch.promote_types(x.dtype, torch.float32))
    return x + value.to(x.dtype), log_det_of_one_plus(jacobian)


def log_det_of_one_plus(jacobian: Tensor) -> Tensor:
    """log|det(I + J)|, ``[B]``; without a factorisation for two dimensions."""
    if jacobian.shape[-1] == 2:
        a, b, c, d = jacobian.flatten(1).unbind(1)
        return (a + d + a * d - b * c).log1p()
    one = torch.eye(jacobian.shape[-1], dtype=jacobian.dtype, device=jacobian.device)
    return torch.linalg.slogdet(one + jacobian).logabsdet


def estimated(
    network: nn.Module, x: Tensor, context: Tensor | None, v: Tensor, weights: Sequence[float], recompute: bool = True
) -> tuple[Tensor, Tensor]:
    """``x + g(x)`` and the weighted series of log det(I + J) for given vectors, with the Neumann gradient."""
    names = [name for name, _ in network.named_parameters()]
    return _Estimate.apply(network, (weights, recompute), names, x, context, v, *network.parameters())


def traced(g: Callable[[Tensor], Tensor], x: Tensor, v: Tensor, weights: Sequence[float]) -> tuple[Tensor, Tensor]:
    """`estimated` in a graph that is being traced; the compiler decides what is kept for the backward pass."""
    wide = torch.promote_types(x.dtype, torch.float32)
    value, product = linearized(g, x)
    log_det, neumann, w = torch.zeros(len(x), dtype=wide, device=x.device), torch.zeros_like(v), v
    for k, weight in enumerate(weights, 1):
        sign = 1.0 if k % 2 else -1.0
        neumann = neumann + sign * weight * w
        w = product(w.to(value.dtype)).detach()
        log_det = log_det + sign * weight / k * (w.to(wide) * v.to(wide)).flatten(1).sum(1)
    gradient = (product(neumann.to(value.dtype)).to(wide) * v.to(wide)).flatten(1).sum(1)
    return x + value.to(x.dtype), log_det + (gradient - gradient.detach())


def _leaf(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.detach().requires_grad_(value.is_floating_point())


def _run(
    network: nn.Module, names: Sequence[str], parameters: Sequence[Tensor | None], *inputs: Tensor | None
) -> Tensor:
    arguments = tuple(value for value in inputs if value is not None)
    named = {name: value for name, value in zip(names, parameters, strict=True) if value is not None}
    return torch.func.functional_call(network, named, arguments)


class _Estimate(torch.autograd.Function):
    """Keeps x, v and the Neumann vector; the parameters are inputs, so that hooks (DDP) fire as they always do."""

    @staticmethod
    def forward(
        ctx: Any, network: nn.Module, settings: tuple[Sequence[float], bool], names: Sequence[str], x: Tensor,
        context: Tensor | None, v: Tensor, *parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        weights, recompute = settings
        recompute = recompute or not any(ctx.needs_input_grad)
        ctx.network, ctx.names, ctx.autocast = network, names, Autocast(x.device.type)
        wide = torch.promote_types(x.dtype, torch.float32)
        log_det, neumann, w = torch.zeros(len(x), dtype=wide, device=x.device), torch.zeros_like(v), v
        with ctx.autocast.restored(), torch.enable_grad(), _no_hooks() if recompute else nullcontext():
            start, others = x.detach().requires_grad_(), [context, *parameters]
            if not recompute:
                others = [_leaf(t) for t in others]
            value = _run(network, names, others[1:], start, others[0])
            for k, weight in enumerate(weights, 1):
                sign = 1.0 if k % 2 else -1.0
                neumann = neumann + sign * weight * w
                (w,) = torch.autograd.grad(
                    value, start, w.to(value.dtype), retain_graph=k < len(weights) or not recompute
                )
                log_det += sign * weight / k * (w.to(wide) * v.to(wide)).flatten(1).sum(1)
        ctx.graph = None if recompute else (value, start, others)
        ctx.save_for_backward(x, context, v, neumann, *parameters)
        return x + value.detach().to(x.dtype), log_det

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        _first_order_only("log-determinant estimate; use log_det=ExactLogDet()")
        x, context, v, neumann, *parameters = ctx.saved_tensors
        grad_z, grad_log_det = grads
        needed = [ctx.needs_input_grad[3], ctx.needs_input_grad[4], *ctx.needs_input_grad[6:]]
        with ctx.autocast.restored(), torch.enable_grad():
            if ctx.graph is None:
                start, others = x.detach().requires_grad_(), [_leaf(t) for t in (context, *parameters)]
                value = _run(ctx.network, ctx.names, others[1:], start, others[0])
            else:
                (value, start, others), ctx.graph = ctx.graph, None  # goes with the first backward pass
            (w,) = torch.autograd.grad(value, start, neumann.to(value.dtype), create_graph=True)
            gradient = (w.to(grad_log_det.dtype) * v.to(grad_log_det.dtype)).flatten(1).sum(1)
        wanted = [t for t, need in zip((start, *others), needed, strict=True) if need and t is not None]
        found = iter(_pull_back((value, gradient), (grad_z.to(value.dtype), grad_log_det), wanted))
        each = [
            next(found) if need and t is not None else None for t, need in zip((start, *others), needed, strict=True)
        ]
        if needed[0]:
            each[0] = grad_z if each[0] is None else grad_z + each[0]
        return None, None, None, each[0], each[1], None, *each[2:]


def _pull_back(outputs: Sequence[Tensor], grads: Sequence[Tensor], wanted: list[Tensor]) -> Sequence[Tensor | None]:
    pairs = [(out, grad) for out, grad in zip(outputs, grads, strict=True) if out.requires_grad]
    if not wanted or not pairs:
        return [None] * len(wanted)
    return torch.autograd.grad([out for out, _ in pairs], wanted, [grad for _, grad in pairs], allow_unused=True)


def _first_order_only(what: str) -> None:
    if torch.is_grad_enabled():
        raise RuntimeError(f"ResidualFlow: second derivatives are not implemented for the {what}.")


def _no_hooks() -> Any:
    """What is saved inside is saved plainly, also under gradient checkpointing: the forward pass is done with it."""
    return torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor)


# -- the inverse -------------------------------------------------------------------------------------------------------


class _FixedPoint(torch.autograd.Function):
    """The x with x + g(x) = z; its gradient solves (I + J)ᵀ a = grad by the same iteration."""

    @staticmethod
    def forward(
        ctx: Any, network: nn.Module, settings: tuple[float, int], names: Sequence[str], z: Tensor,
        context: Tensor | None, *parameters: Tensor,
    ) -> Tensor:  # fmt: skip
        ctx.network, ctx.names, ctx.autocast, ctx.settings = network, names, Autocast(z.device.type), settings
        with ctx.autocast.restored():
            x = fixed_point(lambda x: z - _run(network, names, parameters, x, context).to(z.dtype), z, *settings)
        ctx.save_for_backward(x, context, *parameters)
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        _first_order_only("inverse")
        x, context, *parameters = ctx.saved_tensors
        (grad,) = grads
        needed = ctx.needs_input_grad[4:]
        with ctx.autocast.restored(), torch.enable_grad():
            start = x.detach().requires_grad_()
            others = [_leaf(t) for t in (context, *parameters)]
            value = _run(ctx.network, ctx.names, others[1:], start, others[0])

        def step(a: Tensor) -> Tensor:
            return grad - torch.autograd.grad(value, start, a.to(value.dtype), retain_graph=True)[0]

        a = fixed_point(step, grad, *ctx.settings)
        wanted = [t for t, need in zip(others, needed, strict=True) if need and t is not None]
        found = iter(_pull_back((value,), (-a.to(value.dtype),), wanted))
        each = [next(found) if need and t is not None else None for t, need in zip(others, needed, strict=True)]
        return None, None, None, a, *each


def fixed_point(
    step: Callable[[Tensor], Tensor], start: Tensor, tolerance: float, max_iterations: int, *, every: int = 4
) -> Tensor:
    """Iterates a contraction until no element changes by more than the tolerance; looks at every few iterations.

    Raises:
        RuntimeError: if ``max_iterations`` do not suffice, with the change that was left.
    """
    x = start
    change = torch.zeros(())
    for _ in range(0, max_iterations if x.numel() else 0, every):
        for _ in range(every):  # one look at the change costs a wait for the device
            before, x = x, step(x)
        change = (x - before).abs().max() / (1 + x.abs().max())
        if change <= tolerance:
            return x
    if x.numel():
        raise RuntimeError(
            f"ResidualFlow: the inverse changed by {change.item():.3g} after {max_iterations} iterations, wanted "
            f"{tolerance:.3g}; is the network's Lipschitz constant below 1?"
        )
    return x
