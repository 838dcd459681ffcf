"""What must hold for every flow layer: `check_flow`, for the layers of this library and for your own."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..nn.flows.actnorm import ActNorm
from ..nn.flows.flow import Flow
from ..nn.flows.sequential import FlowSequential
from .op_suite import layouts

DOUBLE, SINGLE = torch.float64, torch.float32


def jacobian_log_det(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """log|det dy/dx| of each sample, by automatic differentiation and `slogdet`.

    Args:
        function: from ``[B, *]`` to ``[B, *]`` of as many elements; samples must not influence each other.
        x: where, ``[B, *]``; float64 is the point of it.

    Returns:
        ``[B]``, in nats.
    """
    rows = []
    for sample in x:
        jacobian = torch.autograd.functional.jacobian(lambda s: function(s.unsqueeze(0)).flatten(), sample)
        rows.append(torch.linalg.slogdet(jacobian.reshape(-1, sample.numel())).logabsdet)
    return torch.stack(rows)


def check_flow(
    layer: Flow,
    shape: Sequence[int],
    *,
    context: Tensor | None = None,
    batch: int = 3,
    noise: float = 0.1,
    exact: bool = True,
    invertible: bool = True,
    round_trip: tuple[float, float] = (1e-12, 1e-5),
    second_order: bool = True,
    compiles: bool = True,
    seed: int = 0,
) -> None:
    """Checks a flow layer against its own mathematics, and against what users do with it.

    The layer is copied, brought to evaluation mode and initialised from data if it asks for that; its parameters are
    moved a little, so that an identity at initialisation hides nothing. Then, in float64 unless said otherwise:

    1. ``log_det`` is ``[B]``, of float32 or wider, and that of the Jacobian: to 1e-9, in float32 to 1e-4;
    2. `inverse` undoes `forward`, and their log-determinants cancel; both ways, in float32 too;
    3. first (and second) derivatives of both outputs, by input, context and parameters, against finite differences;
       every parameter gets a finite gradient, and sampling has gradients too;
    4. any memory layout, a batch of one and of none give what a plain batch gives, and a sample does not depend on
       the others;
    5. under autocast, and in bfloat16, the log-determinant is float32, and within ``1e-3 * sqrt(D)`` of what float32
       makes of the same inputs and of what the networks (submodules that are no flows) gave in low precision;
    6. the memory policies of `FlowSequential` give the gradients of ``"store"``;
    7. the layer traces without a graph break, and a state dict gives the same bits.

    Args:
        layer: the flow; it is not changed.
        shape: that of one sample.
        context: ``[B, *]``, handed to the layer with every call; its batch size takes the place of ``batch``.
        batch: how many samples.
        noise: the standard deviation of what is added to the parameters.
        exact: False for an estimated log-determinant: leaves out what compares it with the Jacobian.
        invertible: False for a layer without `inverse`.
        round_trip: the largest error of ``inverse(forward(x))`` in float64 and in float32, relative to one plus x;
            loosen it for inverses that iterate to a tolerance. In float32 the log-determinants cancel to a tenth of it.
        second_order: False for a layer with first derivatives only.
        compiles: False for a layer that cannot be traced.
        seed: of the input and the noise.

    Raises:
        AssertionError: with the check that failed and by how much.

    >>> from genkern.nn import AffineCoupling
    >>> check_flow(AffineCoupling(torch.nn.Linear(2, 4)), (4,))
    """
    generator = torch.Generator().manual_seed(seed)
    batch = batch if context is None else len(context)
    x = torch.randn(batch, *shape, generator=generator, dtype=DOUBLE)
    context = None if context is None else context.to(DOUBLE)
    layer = settle(layer, x, context, noise=noise, seed=seed)
    check = _Check(layer, x, context, round_trip)

    check.log_det_is_an_accumulator()
    if exact:
        check.log_det_is_that_of_the_jacobian()
    if invertible:
        check.inverse_undoes_forward(exact)
    check.derivatives_are_those_of_finite_differences(second_order, exact)
    check.every_parameter_has_a_gradient()
    if invertible:
        check.sampling_has_gradients()
    check.any_batch_and_layout_is_the_same(exact)
    check.low_precision_leaves_the_log_det_alone()
    if invertible and exact:
        check.memory_policies_agree()
    if compiles:
        check.traces_whole()
    check.state_dict_gives_the_same_bits()


def settle(layer: Flow, x: Tensor, context: Tensor | None = None, *, noise: float = 0.1, seed: int = 0) -> Flow:
    """A float64 copy in evaluation mode with parameters and running statistics of no special values."""
    layer = copy.deepcopy(layer).to(DOUBLE)
    generator = torch.Generator().manual_seed(seed)
    layer.initialize(x, context)
    if any(name.startswith("running_") for module in layer.modules() for name in module._buffers):
        with torch.no_grad():
            layer.train()(x, context)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=DOUBLE), alpha=noise)
    for module in layer.modules():
        if isinstance(module, ActNorm):
            module.mark_initialized()
    return layer.eval()


Forward = Callable[..., Tensor]


def networks_of(layer: Flow) -> list[nn.Module]:
    """The submodules of a flow, and of flows inside it, that are no flows."""
    flows = [module for module in layer.modules() if isinstance(module, Flow)]
    children = [child for flow in flows for child in flow.children()]
    return [child for child in children if not isinstance(child, Flow | nn.ModuleList)]


def with_networks_of(layer: Flow, precision: Callable[[nn.Module, Forward], Forward]) -> Flow:
    """A copy that computes in float32 with what its networks give in a lower precision: the layer's own arithmetic."""
    layer = copy.deepcopy(layer)
    networks = networks_of(layer)
    dtypes = [next((p.dtype for p in network.parameters()), SINGLE) for network in networks]
    layer.float()
    for network, dtype in zip(networks, dtypes, strict=True):
        network.to(dtype).forward = precision(network, network.forward)  # type: ignore[method-assign]
    return layer


def _autocast(network: nn.Module, forward: Forward) -> Forward:
    def run(*inputs: Any) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            return forward(*inputs).float()

    return run


def _bfloat16(network: nn.Module, forward: Forward) -> Forward:
    def run(*inputs: Any) -> Tensor:
        dtype = next((p.dtype for p in network.parameters()), torch.bfloat16)  # a solver may have widened them
        return forward(*(t.to(dtype) if isinstance(t, Tensor) else t for t in inputs)).float()

    return run


class _Check:
    """One layer in float64 and in float32, one batch, and the checks as sentences that could be false."""

    def __init__(self, layer: Flow, x: Tensor, context: Tensor | None, round_trip: tuple[float, float]):
        self.layer, self.single = layer, copy.deepcopy(layer).to(SINGLE)
        self.x, self.context = x, context
        self.round_trip = dict(zip((DOUBLE, SINGLE), round_trip, strict=True))
        self.name = type(layer).__name__
        self.z, self.log_det = (out.detach() for out in self.run(layer, x, context))

    def run(
        self, layer: Callable[..., tuple[Tensor, Tensor]], x: Tensor, context: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        torch.manual_seed(0)  # of an estimator's noise
        return layer(x, context)

    def inputs(self, dtype: torch.dtype) -> tuple[Flow, Tensor, Tensor | None]:
        layer = self.layer if dtype == DOUBLE else self.single
        return layer, self.x.to(dtype), None if self.context is None else self.context.to(dtype)

    def near(self, what: str, found: Tensor, wanted: Tensor, atol: float, rtol: float = 0.0) -> None:
        assert found.shape == wanted.shape, f"{self.name}: {what}: shape {[*found.shape]}, wanted {[*wanted.shape]}"
        error = (found.double() - wanted.double()).abs()
        limit = atol + rtol * wanted.double().abs()
        assert bool((error <= limit).all()), f"{self.name}: {what}: off by {error.max().item():.3g}, allowed {atol:.0e}"

    # -- the checks -----------------------------------------------------------------------------------------------

    def log_det_is_an_accumulator(self) -> None:
        for dtype in (DOUBLE, SINGLE):
            z, log_det = self.run(*self.inputs(dtype))
            assert isinstance(log_det, Tensor) and log_det.shape == (len(self.x),), f"{self.name}: log_det must be [B]"
            assert log_det.dtype == dtype and z.dtype == dtype, f"{self.name}: {dtype} gave {z.dtype}, {log_det.dtype}"

    def log_det_is_that_of_the_jacobian(self) -> None:
        def latents(i: int) -> Callable[[Tensor], Tensor]:
            context = None if self.context is None else self.context[i : i + 1]
            return lambda sample: self.layer(sample, context)[0]

        truth = torch.cat([jacobian_log_det(latents(i), self.x[i : i + 1]) for i in range(len(self.x))])
        self.near("log_det against the Jacobian", self.log_det, truth, 1e-9, 1e-11)
        self.near("log_det in float32", self.run(*self.inputs(SINGLE))[1], truth, 1e-4, 1e-6)

    def inverse_undoes_forward(self, exact: bool) -> None:
        for dtype in (DOUBLE, SINGLE):
            layer, x, context = self.inputs(dtype)
            limit = self.round_trip[dtype]
            with torch.no_grad():
                z, log_det = self.run(layer, x, context)
                back, inverse_log_det = layer.inverse(z, context)
                again, _ = self.run(layer, back, context)
            self.near(f"inverse(forward(x)) in {dtype}", back, x, limit * 1.0, limit)
            self.near(f"forward(inverse(z)) in {dtype}", again, z, 10 * limit, 10 * limit)
            assert inverse_log_det.dtype == dtype, f"{self.name}: the inverse's log_det is {inverse_log_det.dtype}"
            if exact:
                share = 10 * limit if dtype == DOUBLE else 0.1 * limit
                self.near(f"log_det + log_det of the inverse in {dtype}", inverse_log_det, -log_det, share, share)

    def derivatives_are_those_of_finite_differences(self, second_order: bool, exact: bool) -> None:
        names = [name for name, parameter in self.layer.named_parameters() if parameter.requires_grad]
        values = [self.layer.get_parameter(name).detach() for name in names]
        context = [] if self.context is None else [self.context]
        leaves = [t.clone().requires_grad_() for t in (self.x, *context, *values)]

        def outputs(x: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
            torch.manual_seed(0)
            given = others[0] if context else None
            parameters = dict(zip(names, others[len(context) :], strict=True))
            found = torch.func.functional_call(self.layer, parameters, (x, given))
            found = found if exact else found[:1]
            return tuple(out for out in found if out.requires_grad)

        assert torch.autograd.gradcheck(outputs, leaves, fast_mode=True), f"{self.name}: first derivatives"
        if second_order:
            assert torch.autograd.gradgradcheck(outputs, leaves, fast_mode=True, atol=1e-4), f"{self.name}: second"

    def every_parameter_has_a_gradient(self) -> None:
        layer, x, context = self.inputs(SINGLE)
        layer = copy.deepcopy(layer).train()
        z, log_det = self.run(layer, x.requires_grad_(), context)
        (z.square().sum() - log_det.sum()).backward()
        missing = [
            name
            for name, p in layer.named_parameters()
            if p.requires_grad and (p.grad is None or not p.grad.isfinite().all())
        ]
        assert not missing, f"{self.name}: no finite gradient reaches {missing}"

    def sampling_has_gradients(self) -> None:
        z = self.z.clone().requires_grad_()
        x, log_det = self.layer.inverse(z, self.context)
        leaves = [z, *(p for p in self.layer.parameters() if p.requires_grad)]
        grads = torch.autograd.grad(x.square().sum() - log_det.sum(), leaves, allow_unused=True)
        assert all(g is not None and g.isfinite().all() for g in grads), f"{self.name}: sampling lacks a gradient"

    def any_batch_and_layout_is_the_same(self, exact: bool) -> None:
        with torch.no_grad():
            for name, x in layouts(self.x).items():
                z, log_det = self.run(self.layer, x, self.context)
                self.near(f"z of a {name} input", z, self.z, 1e-10, 1e-10)
                self.near(f"log_det of a {name} input", log_det, self.log_det, 1e-9, 1e-9)
            for n in (1, 0):
                context = None if self.context is None else self.context[:n]
                z, log_det = self.run(self.layer, self.x[:n], context)
                self.near(f"z of a batch of {n}", z, self.z[:n], 1e-10, 1e-10)
                if exact:
                    self.near(f"log_det of a batch of {n}", log_det, self.log_det[:n], 1e-9, 1e-9)

    def low_precision_leaves_the_log_det_alone(self) -> None:
        with torch.no_grad():
            _, x, context = self.inputs(SINGLE)
            limit = 1e-3 * math.sqrt(x[0].numel())
            single, narrowed = copy.deepcopy(self.single), []
            for network in networks_of(single):
                network.register_forward_pre_hook(lambda *_: narrowed.append(torch.is_autocast_enabled("cpu")))
            with torch.autocast("cpu", torch.bfloat16):
                z, log_det = self.run(single, x, context)
            assert z.dtype == log_det.dtype == SINGLE, f"{self.name}: autocast gave {z.dtype}, {log_det.dtype}"
            same = with_networks_of(self.single, _autocast) if any(narrowed) else self.single
            wide = self.run(same, x, context)[1]
            self.near("log_det under autocast against float32 of what its networks gave", log_det, wide, limit)
            low = copy.deepcopy(self.layer).to(torch.bfloat16)
            half, half_context = x.bfloat16(), None if context is None else context.bfloat16()
            z, log_det = self.run(low, half, half_context)
            assert z.dtype == torch.bfloat16, f"{self.name}: bfloat16 gave {z.dtype}"
            assert log_det.dtype == SINGLE, f"{self.name}: bfloat16 gave a log_det of {log_det.dtype}"
            half, half_context = half.float(), None if half_context is None else half_context.float()
            wide = self.run(with_networks_of(low, _bfloat16), half, half_context)[1]
            self.near("log_det of bfloat16 against float32 of the same", log_det, wide, limit)

    def memory_policies_agree(self) -> None:
        found = [self._gradients(policy) for policy in ("store", "checkpoint", "invert")]
        for policy, gradients in zip(("checkpoint", "invert"), found[1:], strict=True):
            limit = max(1e-8, 1e3 * self.round_trip[DOUBLE])
            for grad, wanted in zip(gradients, found[0], strict=True):
                self.near(f"a gradient under policy={policy!r}", grad, wanted, limit, limit)

    def _gradients(self, policy: str) -> Sequence[Tensor]:
        flow = FlowSequential(copy.deepcopy(self.layer), copy.deepcopy(self.layer), policy=policy, every=2)
        if self.z.shape != self.x.shape:
            flow = FlowSequential(copy.deepcopy(self.layer), policy=policy)
        leaves = [self.x.clone().requires_grad_(), *(p for p in flow.parameters() if p.requires_grad)]
        z, log_det = self.run(flow.train(), leaves[0], self.context)
        return torch.autograd.grad(z.square().sum() - log_det.sum(), leaves, allow_unused=True, materialize_grads=True)

    def traces_whole(self) -> None:
        torch._dynamo.reset()
        layer, x, context = self.inputs(SINGLE)
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        z, log_det = self.run(compiled, x, context)
        wanted_z, wanted_log_det = self.run(layer, x, context)
        self.near("z when compiled", z, wanted_z, 1e-5, 1e-5)
        self.near("log_det when compiled", log_det, wanted_log_det, 1e-4, 1e-5)

    def state_dict_gives_the_same_bits(self) -> None:
        other = copy.deepcopy(self.layer)
        with torch.no_grad():
            for tensor in other.state_dict().values():
                if tensor.is_floating_point():
                    tensor += 1.0
        other.load_state_dict(self.layer.state_dict())
        z, log_det = self.run(other, self.x, self.context)
        same = torch.equal(z, self.z) and torch.equal(log_det, self.log_det)
        assert same, f"{self.name}: a state dict gives another function"
