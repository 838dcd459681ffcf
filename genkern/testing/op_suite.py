"""The generated suite that every op passes.

An op's test file is a list of cases and whatever is special about the op::

    class TestAffineCoupling(OpSuite):
        cases = [Case("sigmoid", affine_coupling, {"x": (3, 6, 4, 4), "params": (3, 6, 4, 4)})]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..ops._library import Op, in_order
from .tolerance import assert_same_bits, assert_within_rule, tensors_of

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


# -- cases -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One way of calling a public function.

    Args:
        name: shown by pytest.
        function: the public function; it must accept ``impl=``.
        shapes: name and shape of every differentiable tensor, in the order of the function's arguments.
        options: keyword arguments that are passed on, tensors among them.
        scale: standard deviation of the random inputs.
        batched: the first dimension of all shapes is the batch, which may be empty.
    """

    name: str
    function: Callable[..., Any]
    shapes: dict[str, tuple[int, ...]]
    options: dict[str, Any] = field(default_factory=dict)
    scale: float = 1.0
    batched: bool = True

    def inputs(self, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        draw = [
            self.scale * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in self.shapes.values()
        ]
        return [tensor.to(device, dtype) for tensor in draw]

    def __call__(self, *tensors: Tensor, impl: str = "auto") -> tuple[Tensor, ...]:
        device = tensors[0].device
        options = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in self.options.items()}
        outputs = self.function(*tensors, **options, impl=impl)
        return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)

    def gradients(self, tensors: Sequence[Tensor], impl: str = "auto", seed: int = 1) -> tuple[Tensor, ...]:
        """Gradients of a fixed random combination of the outputs."""
        leaves = [tensor.detach().requires_grad_() for tensor in tensors]
        outputs = [out for out in self(*leaves, impl=impl) if out.requires_grad]
        return torch.autograd.grad(
            outputs, leaves, cotangents(outputs, seed), allow_unused=True, materialize_grads=True
        )


def by_pixels(x: Tensor) -> Tensor:
    """Pictures channels last, matrices by columns."""
    if x.dim() == 4:
        return x.contiguous(memory_format=torch.channels_last)
    return x.mT.contiguous().mT if x.dim() > 1 else x


def check_dispatcher_ops(case: Case, inputs: Sequence[Tensor], **options: Any) -> int:
    """`torch.library.opcheck` of every op that the call makes, and of its backward; returns how many it made."""
    with recorded_calls() as calls:
        case(*(tensor.requires_grad_() for tensor in inputs))
    for op, recorded in calls:
        args = tuple(_leaf(in_order(a)) for a in recorded)  # of no graph, which would have to be walked again
        torch.library.opcheck(op.overload, args, **options)
        if op.differentiable:
            outputs = op.reference(*args)
            outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
            grads = (torch.randn_like(out) for out in outputs)
            torch.library.opcheck(op.overload_backward, (*grads, *args), **options)
    return len(calls)


def cotangents(outputs: Sequence[Tensor], seed: int = 1) -> list[Tensor]:
    """Random tensors like the outputs, the same for every dtype and device."""
    generator = torch.Generator().manual_seed(seed)
    draw = [torch.randn(out.shape, generator=generator, dtype=torch.float64) for out in outputs]
    return [tensor.to(out) for tensor, out in zip(draw, outputs, strict=True)]


@contextmanager
def recorded_calls() -> Iterator[list[tuple[Op, tuple[Any, ...]]]]:
    """The ops that run inside, with their arguments."""
    calls: list[tuple[Op, tuple[Any, ...]]] = []
    original = Op.__call__

    def record(self: Op, *args: Any, impl: str = "auto") -> Any:
        calls.append((self, args))
        return original(self, *args, impl=impl)

    Op.__call__ = record  # type: ignore[method-assign]
    try:
        yield calls
    finally:
        Op.__call__ = original  # type: ignore[method-assign]


def _leaf(value: Any) -> Any:
    return value.detach().requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value


# -- layouts -----------------------------------------------------------------------------------------------------------


def layouts(tensor: Tensor) -> dict[str, Tensor]:
    """The same values in every memory layout that a user may hand over; a scalar has but one."""
    if tensor.dim() == 0:
        return {}
    guarded = torch.full(
        (*tensor.shape[:-1], tensor.shape[-1] + 6), float("nan"), dtype=tensor.dtype, device=tensor.device
    )
    guarded = guarded[..., 3:-3]
    guarded.copy_(tensor)
    doubled = torch.full(
        (*tensor.shape[:-1], 2 * tensor.shape[-1]), float("nan"), dtype=tensor.dtype, device=tensor.device
    )
    doubled = doubled[..., ::2]
    doubled.copy_(tensor)
    found = {"guarded": guarded, "strided": doubled}
    if tensor.dim() >= 2:
        found["transposed"] = tensor.transpose(0, -1).contiguous().transpose(0, -1)
    if tensor.dim() == 4:
        found["channels_last"] = tensor.contiguous(memory_format=torch.channels_last)
    return found


# -- the suite ---------------------------------------------------------------------------------------------------------


class OpSuite:
    """What every op must pass, for each of its cases; subclass it in ``tests/ops`` and set ``cases``."""

    cases: Sequence[Case] = ()
    dtypes: Sequence[torch.dtype] = DTYPES

    def pytest_generate_tests(self, metafunc: Any) -> None:
        import pytest  # not with the module: `check_flow` works without

        if "case" in metafunc.fixturenames:
            metafunc.parametrize("case", self.cases, ids=lambda case: case.name)
        if "dtype" in metafunc.fixturenames:
            metafunc.parametrize("dtype", self.dtypes, ids=lambda dtype: str(dtype).removeprefix("torch."))
        if "device" in metafunc.fixturenames:
            metafunc.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])

    def test_values_obey_the_rule(self, case: Case, dtype: torch.dtype, device: str) -> None:
        inputs = case.inputs(dtype, device)
        truth = case(*(tensor.double() for tensor in inputs), impl="torch")
        plain = case(*inputs, impl="torch")
        for i, (kernel, p, t) in enumerate(zip(case(*inputs), plain, truth, strict=True)):
            assert_within_rule(kernel, p, t, what=f"output {i}")

    def test_gradients_obey_the_rule(self, case: Case, dtype: torch.dtype, device: str) -> None:
        inputs = case.inputs(dtype, device)
        truth = case.gradients([tensor.double() for tensor in inputs], impl="torch")
        plain = case.gradients(inputs, impl="torch")
        for name, kernel, p, t in zip(case.shapes, case.gradients(inputs), plain, truth, strict=True):
            assert_within_rule(kernel, p, t, what=f"gradient of {name}")

    def test_first_derivatives_are_those_of_finite_differences(self, case: Case, device: str) -> None:
        inputs = [tensor.requires_grad_() for tensor in case.inputs(torch.float64, device)]
        assert torch.autograd.gradcheck(case, inputs, check_forward_ad=True, fast_mode=True)

    def test_second_derivatives_are_those_of_finite_differences(self, case: Case, device: str) -> None:
        inputs = [tensor.requires_grad_() for tensor in case.inputs(torch.float64, device)]
        assert torch.autograd.gradgradcheck(case, inputs, fast_mode=True)

    def test_torch_func_agrees_with_the_reference(self, case: Case) -> None:
        inputs = tuple(case.inputs(torch.float64))
        everything = tuple(range(len(inputs)))

        def total(impl: str) -> Callable[..., Tensor]:
            def apply(*tensors: Tensor) -> Tensor:
                return torch.stack([out.square().sum() for out in case(*tensors, impl=impl)]).sum()

            return apply

        ones = tuple(map(torch.ones_like, inputs))

        def transformed(f: Any) -> list[Any]:
            stacked = (torch.stack([x, x + 0.1]) for x in inputs)
            return [
                torch.func.grad(f, everything)(*inputs),
                torch.func.jvp(f, inputs, ones),
                torch.func.vmap(torch.func.grad(f, everything))(*stacked),
                torch.func.jacrev(f, everything)(*inputs),
                torch.func.jvp(torch.func.grad(f), inputs, ones),
            ]

        found, wanted = tensors_of(transformed(total("auto"))), tensors_of(transformed(total("torch")))
        for kernel, reference in zip(found, wanted, strict=True):
            torch.testing.assert_close(kernel, reference, rtol=1e-9, atol=1e-9)

    def test_dispatcher_ops_are_well_formed(self, case: Case) -> None:
        assert check_dispatcher_ops(case, case.inputs(torch.float32)), "the function called no op"

    def test_outputs_have_the_strides_that_graphs_expect(self, case: Case) -> None:
        check_dispatcher_ops(case, [by_pixels(x) for x in case.inputs(torch.float32)], test_utils="test_faketensor")

    def test_compiled_equals_eager(self, case: Case) -> None:
        torch._dynamo.reset()
        compiled = Case(case.name, torch.compile(case.function, fullgraph=True), case.shapes, case.options)
        inputs = case.inputs(torch.float32)
        for kernel, eager in zip(compiled(*inputs), case(*inputs), strict=True):
            torch.testing.assert_close(kernel, eager, rtol=0, atol=0)
        for kernel, eager in zip(compiled.gradients(inputs), case.gradients(inputs), strict=True):
            torch.testing.assert_close(kernel, eager)

    def test_exported_equals_eager(self, case: Case) -> None:
        class Module(torch.nn.Module):
            def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
                return case(*tensors)

        inputs = tuple(case.inputs(torch.float32))
        exported = torch.export.export(Module(), inputs).module()
        assert_same_bits(exported(*inputs), case(*inputs))

    def test_any_layout_gives_the_same(self, case: Case, device: str) -> None:
        inputs = case.inputs(torch.float32, device)
        expected, gradients = case(*inputs), case.gradients(inputs)
        for layout in ("guarded", "strided", "transposed", "channels_last"):
            given = [layouts(tensor).get(layout, tensor) for tensor in inputs]
            for out, wanted in zip(case(*given), expected, strict=True):
                torch.testing.assert_close(out, wanted, msg=partial("{}: {}".format, layout))
            for grad, wanted in zip(case.gradients(given), gradients, strict=True):
                torch.testing.assert_close(grad, wanted, msg=partial("gradient, {}: {}".format, layout))

    def test_gradients_may_come_in_any_layout(self, case: Case, device: str) -> None:
        leaves = [tensor.requires_grad_() for tensor in case.inputs(torch.float32, device)]
        outputs = [out for out in case(*leaves) if out.requires_grad]
        forms: list[Callable[[Tensor], Tensor]] = [
            lambda out: torch.ones((), device=out.device, dtype=out.dtype).expand(out.shape),
            lambda out: cotangents([out])[0].transpose(0, -1).contiguous().transpose(0, -1),
        ]
        for form in forms:
            given = [form(out) for out in outputs]
            got = torch.autograd.grad(outputs, leaves, given, retain_graph=True, allow_unused=True)
            dense = [grad.contiguous() for grad in given]
            wanted = torch.autograd.grad(outputs, leaves, dense, retain_graph=True, allow_unused=True)
            for a, b in zip(got, wanted, strict=True):
                torch.testing.assert_close(a, b)

    def test_each_gradient_may_be_asked_for_alone(self, case: Case, device: str) -> None:
        inputs = case.inputs(torch.float32, device)
        everything = case.gradients(inputs)
        for i, wanted in enumerate(everything):
            leaves = [tensor.detach().requires_grad_(i == j) for j, tensor in enumerate(inputs)]
            outputs = case(*leaves)
            grads = cotangents([out for out in outputs if out.is_floating_point()])
            kept = [(out, grad) for out, grad in zip(outputs, grads, strict=True) if out.requires_grad]
            (grad,) = torch.autograd.grad([out for out, _ in kept], [leaves[i]], [grad for _, grad in kept])
            torch.testing.assert_close(grad, wanted)

    def test_runs_are_deterministic(self, case: Case, device: str) -> None:
        inputs = case.inputs(torch.float32, device)
        assert_same_bits(case(*inputs), case(*inputs))
        with_graph = case(*(tensor.requires_grad_() for tensor in case.inputs(torch.float32, device)))
        assert_same_bits([out.detach() for out in with_graph], case(*inputs), what="with and without a graph")
        assert_same_bits(
            self._on_threads(case, inputs, 1), self._on_threads(case, inputs, 3), what="one thread and three"
        )

    @staticmethod
    def _on_threads(case: Case, inputs: Sequence[Tensor], threads: int) -> Any:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return case(*inputs), case.gradients(inputs)
        finally:
            torch.set_num_threads(before)

    def test_an_empty_batch_and_a_batch_of_one_work(self, case: Case, dtype: torch.dtype, device: str) -> None:
        if not case.batched:
            return
        one = [tensor[:1] for tensor in case.inputs(dtype, device)]
        for kernel, reference in zip(case(*one), case(*one, impl="torch"), strict=True):
            torch.testing.assert_close(kernel, reference)
        empty = [tensor[:0] for tensor in one]
        for kernel, full in zip(case(*empty), case(*one), strict=True):
            assert kernel.shape[1:] == full.shape[1:] and kernel.dtype == full.dtype
        assert all(grad.shape == tensor.shape for grad, tensor in zip(case.gradients(empty), empty, strict=True))

    def test_autocast_does_not_narrow_anything(self, case: Case, device: str) -> None:
        inputs = case.inputs(torch.float32, device)
        expected = case(*inputs)
        with torch.autocast(device, dtype=torch.bfloat16):
            assert_same_bits(case(*inputs), expected)
