"""Continuous normalising flows: the solution of an ordinary differential equation, and the volume along it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ... import random
from .flow import Flow, no_volume
from .replay import rademacher
from .traced import State, fixed_steps, linearized, unit

DIVERGENCES, NOISES = ("hutchinson", "exact"), ("rademacher", "gaussian")
FIXED_STEP = ("euler", "midpoint", "rk4")
SOLVERS = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun", *FIXED_STEP)


class CNF(Flow):
    r"""A continuous normalising flow: the data are carried along a learned velocity for a unit of time.

    .. math:: \frac{dz}{dt} = f(z, t), \quad z(0) = x, \qquad
              \log\lvert\det J\rvert = \int_0^1 \operatorname{tr} \frac{\partial f}{\partial z}\, dt

    `forward` integrates from 0 to 1 and `inverse` from 1 to 0; they undo each other to the solver's tolerance. The
    trace is exact, from a vector-Jacobian product for each dimension, or Hutchinson's unbiased estimate from one,
    :math:`\epsilon^\top \frac{\partial f}{\partial z}\, \epsilon`, with the same noise throughout a solve, so that
    what is integrated is smooth. Noise follows from a key that is drawn from torch's generator, and from the index of
    the sample.

    An adaptive solver takes the steps that its worst sample needs: every sample keeps the tolerance whoever its
    neighbours are, but its last digits depend on them. With a fixed step it does not depend on them at all.

    Args:
        velocity: :math:`f`, a smooth module ``(t, z)`` or ``(t, z, context)``, which returns a tensor like ``z`` and
            treats each sample by itself; `VelocityNetwork` is one.
        divergence: ``"hutchinson"`` or ``"exact"``.
        noise: ``"rademacher"`` (the least variance) or ``"gaussian"``.
        solver: a name of torchdiffeq's: adaptive (``"dopri5"``, ``"dopri8"``, ``"bosh3"``, ``"fehlberg2"``,
            ``"adaptive_heun"``), or with a fixed step (``"rk4"``, ``"midpoint"``, ``"euler"``).
        rtol, atol: relative and absolute tolerance of an adaptive solver, for the root mean square over the
            dimensions of a sample and for its log-determinant.
        steps: of a solver with a fixed step.
        training_steps: in training mode, so many steps of ``"rk4"`` in place of the solver (discretise, then optimise:
            Onken & Ruthotto 2020, arXiv:2005.13420); None: the solver.
        adjoint: the gradient is the solution of another equation, backwards in time and to the same tolerance, for
            which nothing is stored but the result; it has first derivatives only. False: the gradient of the
            solver's steps, exact and of any order, for which all of them are stored.

    The layer decides what it stores under every policy of a `FlowSequential`. `evaluations` counts the calls of the
    velocity in the last solve, `backward_evaluations` those in the adjoint's. States are float32 or wider and the
    velocity is computed in their precision, also under autocast and from parameters of less.

    With a fixed step `torch.compile` and `torch.export` take the layer whole: the same steps without torchdiffeq, whose
    gradient is that of the steps; they are not counted. An adaptive solver asks the host after every step: there a
    compiled graph breaks, and an export raises.

    Raises:
        ValueError: for an unknown divergence, noise or solver.
        ImportError: in the first solve, where torchdiffeq is not installed.
        RuntimeError: where the solver cannot keep the tolerance.

    Chen et al. 2018 (arXiv:1806.07366), theorem 1; Grathwohl et al. 2019 (arXiv:1810.01367), eq. 8.

    >>> layer = CNF(VelocityNetwork((2,), hidden=16))  # doctest: +SKIP
    >>> z, log_det = layer(torch.randn(8, 2))  # doctest: +SKIP
    """

    draws_noise = True

    def __init__(
        self,
        velocity: nn.Module,
        *,
        divergence: str = "hutchinson",
        noise: str = "rademacher",
        solver: str = "dopri5",
        rtol: float = 1e-5,
        atol: float = 1e-5,
        steps: int = 8,
        training_steps: int | None = None,
        adjoint: bool = True,
    ):
        super().__init__()
        options = (("divergence", divergence, DIVERGENCES), ("noise", noise, NOISES), ("solver", solver, SOLVERS))
        for name, value, known in options:
            if value not in known:
                raise ValueError(f"CNF: {name} must be one of {known}; got {value!r}.")
        for name, number in (("rtol", rtol), ("atol", atol), ("steps", steps), ("training_steps", training_steps)):
            if number is not None and not number > 0:
                raise ValueError(f"CNF: {name} must be positive; got {number}.")
        self.velocity, self.divergence, self.noise = velocity, divergence, noise
        self.solver, self.rtol, self.atol = solver, rtol, atol
        self.steps, self.training_steps, self.adjoint = steps, training_steps, adjoint
        self.sample_offset = 0
        self.tracks_volume = True  # see `positions_only`
        self.evaluations, self._count = 0, Count()

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._solve(x, context, 0.0, 1.0)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._solve(z, context, 1.0, 0.0)

    @property
    def backward_evaluations(self) -> int:
        return self._count.calls - self.evaluations

    def keeps_own_memory(self) -> bool:
        return True

    def _solve(self, x: Tensor, context: Tensor | None, start: float, end: float) -> tuple[Tensor, Tensor]:
        if torch.compiler.is_compiling() and self._scheme()[0] in FIXED_STEP:
            return self._traced(x, context, start, end)
        if torch.compiler.is_exporting():
            raise RuntimeError(f"CNF: {self.solver} chooses its steps by the data; export with solver='rk4'.")
        return self._by_torchdiffeq(x, context, start, end)

    def _traced(self, x: Tensor, context: Tensor | None, start: float, end: float) -> tuple[Tensor, Tensor]:
        solver, steps = self._scheme()
        with torch.autocast(x.device.type, enabled=False):
            z, log_det = x.to(torch.promote_types(x.dtype, torch.float32)), no_volume(x)
            dynamics = Dynamics(self, z, context, Count())
            z, log_det = fixed_steps(dynamics.traced, (z, log_det), start, end, steps, solver)
        return z.to(x.dtype), log_det if self.tracks_volume else torch.full_like(log_det, torch.nan)

    @torch.compiler.disable
    def _by_torchdiffeq(self, x: Tensor, context: Tensor | None, start: float, end: float) -> tuple[Tensor, Tensor]:
        torchdiffeq = _torchdiffeq()
        if not len(x):
            return x.clone(), no_volume(x)
        self._count = Count()
        with torch.autocast(x.device.type, enabled=False):
            z, log_det = x.to(torch.promote_types(x.dtype, torch.float32)), no_volume(x)
            dynamics = Dynamics(self, z, context, self._count)
            times = torch.tensor([start, end], dtype=z.dtype, device=z.device)
            settings = self._settings(times)
            try:
                if self.adjoint and torch.is_grad_enabled():
                    back = self._settings(times.flip(0))["options"]
                    # the error of the parameters' gradients need not be controlled: Kidger et al. 2021 (2009.09457)
                    back["norm"] = "seminorm"
                    path = torchdiffeq.odeint_adjoint(
                        dynamics,
                        (z, log_det),
                        times,
                        adjoint_params=dynamics.leaves(),
                        adjoint_options=back,
                        **settings,
                    )
                else:
                    path = torchdiffeq.odeint(dynamics, (z, log_det), times, **settings)
            except AssertionError as error:  # torchdiffeq's way of giving up
                raise RuntimeError(
                    f"CNF: {self.solver} cannot keep rtol={self.rtol}, atol={self.atol} in {z.dtype} ({error})."
                ) from error
        self.evaluations = self._count.calls
        z, log_det = path[0][-1], path[1][-1]
        if not self.tracks_volume:
            log_det = torch.full_like(log_det, torch.nan)
        if self.adjoint and torch.is_grad_enabled():
            z, log_det = _FirstOrder.apply(z, log_det)
        return z.to(x.dtype), log_det

    def _scheme(self) -> tuple[str, int]:
        """The solver of the present mode, and its steps."""
        if self.training and self.training_steps is not None:
            return "rk4", self.training_steps
        return self.solver, self.steps

    def _settings(self, times: Tensor) -> dict[str, Any]:
        """What torchdiffeq is told for a solve in the present mode."""
        solver, steps = self._scheme()
        options: dict[str, Any] = {}
        if solver in FIXED_STEP:
            options["grid_constructor"] = lambda _, __, t: torch.linspace(t[0], t[-1], steps + 1).to(t)
        else:
            # the last step ends at the end: beyond it the result would be interpolated, with less accuracy
            options = {"norm": worst_sample, "step_t": times[-1:]}
        return {"method": solver, "rtol": self.rtol, "atol": self.atol, "options": options}

    def extra_repr(self) -> str:
        accuracy = f"steps={self.steps}" if self.solver in FIXED_STEP else f"rtol={self.rtol}, atol={self.atol}"
        return f"{self.divergence}, solver={self.solver!r}, {accuracy}, adjoint={self.adjoint}"


@contextmanager
def positions_only(flow: nn.Module) -> Iterator[None]:
    """Continuous flows inside solve for ``z`` alone, several times as fast; their log-determinants are NaN."""
    layers = [layer for layer in flow.modules() if isinstance(layer, CNF)]
    for layer in layers:
        layer.tracks_volume = False
    try:
        yield
    finally:
        for layer in layers:
            layer.tracks_volume = True


@dataclass
class Count:
    calls: int = 0


class Dynamics:
    """What is integrated in one solve, ``(dz/dt, tr df/dz)``: with the parameters, context and noise of its start."""

    def __init__(self, layer: CNF, z: Tensor, context: Tensor | None, count: Count):
        self.velocity, self.count, self.volume = layer.velocity, count, layer.tracks_volume
        self.parameters = {name: p.to(z.dtype) for name, p in layer.velocity.named_parameters()}
        # not the module's own where the adjoint runs later, nor where parameters of less precision were widened
        later = layer.adjoint and torch.is_grad_enabled() and not torch.compiler.is_compiling()
        self.own = not later and all(p.dtype == z.dtype for p in layer.velocity.parameters())
        self.context = context if context is None or not context.is_floating_point() else context.to(z.dtype)
        self.probe = _probe(layer, z) if layer.divergence == "hutchinson" and self.volume else None

    def leaves(self) -> tuple[Tensor, ...]:
        """What the adjoint finds gradients of, besides the state."""
        tensors = [*self.parameters.values(), *([] if self.context is None else [self.context])]
        return tuple(tensor for tensor in tensors if tensor.requires_grad)

    def __call__(self, t: Tensor, state: State) -> State:
        self.count.calls += 1
        z, graph = state[0], torch.is_grad_enabled()
        if not self.volume:
            return self._velocity(t, z), torch.zeros_like(state[1])
        # without a graph around it, what the divergence saves is gone at once: no matter for the caller's hooks
        hooks = nullcontext() if graph else torch.autograd.graph.saved_tensors_hooks(_same, _same)
        with torch.enable_grad(), hooks:
            if not (graph and z.requires_grad):
                z = z.detach().requires_grad_()
            dz = self._velocity(t, z)
            divergence = self._divergence(dz, z, graph)
        return (dz, divergence) if graph else (dz.detach(), divergence.detach())

    def traced(self, t: Tensor, state: State) -> State:
        """The same without autograd inside."""
        if not self.volume:
            return self._velocity(t, state[0]), torch.zeros_like(state[1])
        dz, product = linearized(lambda z: self._velocity(t, z), state[0])
        if self.probe is not None:
            return dz, (product(self.probe) * self.probe).flatten(1).sum(1)
        diagonal = [product(unit(dz, i)).flatten(1)[:, i] for i in range(dz[0].numel())]
        return dz, torch.stack(diagonal).sum(0)

    def _velocity(self, t: Tensor, z: Tensor) -> Tensor:
        arguments = (t, z) if self.context is None else (t, z, self.context)
        if self.own:
            return self.velocity(*arguments)
        return torch.func.functional_call(self.velocity, self.parameters, arguments)

    def _divergence(self, dz: Tensor, z: Tensor, graph: bool) -> Tensor:
        if self.probe is not None:
            (product,) = torch.autograd.grad(dz, z, self.probe, create_graph=graph)
            return (product * self.probe).flatten(1).sum(1)
        columns = dz.flatten(1).unbind(1)
        terms = []
        for i, column in enumerate(columns):
            keep = graph or i + 1 < len(columns)
            (row,) = torch.autograd.grad(column.sum(), z, create_graph=graph, retain_graph=keep)
            terms.append(row.flatten(1)[:, i])
        return torch.stack(terms).sum(0)


def _same(tensor: Tensor) -> Tensor:
    return tensor


def worst_sample(state: State) -> Tensor:
    """The largest error of any sample: a step is good if it is for all of them."""
    z, log_det = state
    return torch.maximum(z.flatten(1).square().mean(1).amax().sqrt(), log_det.abs().amax())


def _probe(layer: CNF, z: Tensor) -> Tensor:
    key = random.key_from(device=z.device)
    if layer.noise == "gaussian":
        return random.normal(key, z.shape, dtype=z.dtype, sample_offset=layer.sample_offset)
    return rademacher(key, z, layer.sample_offset)


class _FirstOrder(torch.autograd.Function):
    """Says that the adjoint has no second derivative, which it would leave out without a word."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, log_det: Tensor) -> State:
        return z.view_as(z), log_det.view_as(log_det)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "CNF: the adjoint has first derivatives only; for a gradient of a gradient use adjoint=False."
            )
        return grads


def _torchdiffeq() -> Any:
    try:
        import torchdiffeq
    except ImportError:
        raise ImportError("continuous flows need torchdiffeq: pip install 'genkern[ode]'") from None
    return torchdiffeq
