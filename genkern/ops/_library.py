"""One description of an op, every way of calling it: eager autograd, `torch.func`, `torch.compile`, the definition.

`define_op` takes the definition in plain PyTorch and the names of the kernels, and builds

* the dispatcher ops `genkern::<name>` and `genkern::<name>_backward` with fakes, autograd and vmap, which is what
  `torch.compile` and `torch.export` see;
* an `autograd.Function` pair for eager code, twice differentiable in both modes and usable under `torch.func`,
  which `register_autograd` alone is not (it raises there, and its forward-mode derivatives are silent zeros).

Every derivative beyond the first backward is that of the reference, so it is right by construction.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ._native import native_library

LIBRARY = torch.library.Library("genkern", "DEF")
OPS: dict[str, Op] = {}


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of arithmetic, log-determinants and log-likelihoods: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class Op:
    """An op with its definition, its kernels and its two faces; made by `define_op`."""

    def __init__(
        self,
        name: str,
        reference: Callable[..., Any],
        *,
        schema: str,
        differentiable: Sequence[str] = (),
        wide: Sequence[int] = (),
        second_order: bool = True,
        selective: bool = False,
        fake: Callable[..., Any] | None = None,
    ):
        self.name, self.definition, self.wide = name, reference, frozenset(wide)
        self.second_order, self.selective, self.fake = second_order, selective, fake
        self.arguments = tuple(inspect.signature(reference).parameters)
        self.differentiable = tuple(self.arguments.index(argument) for argument in differentiable)
        self.outputs = schema.split("->")[1].count("Tensor")
        arguments = schema.split("->")[0].strip()[1:-1]
        LIBRARY.define(f"{name}{schema}", tags=(torch.Tag.pt2_compliant_tag,))
        self.overload = getattr(torch.ops.genkern, name).default
        torch.library.register_fake(f"genkern::{name}", self._fake, lib=LIBRARY)
        torch.library.register_vmap(f"genkern::{name}", _lane_by_lane(self.overload), lib=LIBRARY)
        if self.differentiable:
            grads = ", ".join(f"Tensor grad_{i}" for i in range(self.outputs))
            returns = ", ".join(["Tensor"] * len(self.differentiable))
            returns = returns if len(self.differentiable) == 1 else f"({returns})"
            needs = "".join(f", bool needs_{argument}=True" for argument in differentiable) if selective else ""
            schema = f"{name}_backward({grads}, {arguments}{needs}) -> {returns}"
            LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
            self.overload_backward = getattr(torch.ops.genkern, f"{name}_backward").default
            torch.library.register_fake(f"genkern::{name}_backward", self._fake_backward, lib=LIBRARY)
            torch.library.register_vmap(f"genkern::{name}_backward", _lane_by_lane(self.overload_backward), lib=LIBRARY)
            self._register_autograd()
        on_cuda = self._implement_on_cuda()
        on_cpu = name in native_library().cpu_ops
        # device types whose tensors go to the dispatcher op; all others run the definition
        self.kernels = frozenset({"meta"} | ({"cpu"} if on_cpu else set()) | ({"cuda"} if on_cuda else set()))

    # -- the definition, in the arithmetic that every backend uses ----------------------------------------------

    def reference(self, *args: Any) -> Any:
        """The definition, computed in float32 or wider and rounded once, to the dtype of the inputs."""
        dtype = self._dtype(args)
        if dtype is None or dtype == wide_dtype(dtype):
            return self.definition(*args)
        up = [a.to(wide_dtype(dtype)) if _is_floating(a) else a for a in args]
        outputs = self.definition(*up)
        if isinstance(outputs, Tensor):
            return outputs if 0 in self.wide else outputs.to(dtype)
        return tuple(out if i in self.wide else out.to(dtype) for i, out in enumerate(outputs))

    def reference_backward(self, *args: Any) -> Any:
        """The vector-Jacobian product of the definition: (grads of outputs, inputs[, needs]) -> grads of inputs."""
        grads, inputs, positions = self._split_backward(args)
        grads_of_inputs = _pull_back(self.reference, inputs, grads, positions)
        result = tuple(grads_of_inputs[i] if i in positions else inputs[i].new_zeros(0) for i in self.differentiable)
        return result[0] if len(result) == 1 else result

    def _split_backward(self, args: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any], list[int]]:
        """Arguments of the backward op: gradients of the outputs, inputs, and which inputs need a gradient."""
        count = len(self.arguments)
        grads, inputs, needs = args[: self.outputs], args[self.outputs :][:count], args[self.outputs + count :]
        return grads, inputs, [i for k, i in enumerate(self.differentiable) if k >= len(needs) or needs[k]]

    def _dtype(self, args: Sequence[Any]) -> torch.dtype | None:
        return next((a.dtype for a in args if _is_floating(a)), None)

    # -- calling ------------------------------------------------------------------------------------------------

    def __call__(self, *args: Any, impl: str = "auto") -> Any:
        """Runs the op on the best backend for its inputs; ``impl="torch"`` runs the definition."""
        if impl not in ("auto", "torch"):
            raise ValueError(f"{self.name}: impl must be 'auto' or 'torch', got {impl!r}.")
        device = next(a.device for a in args if isinstance(a, Tensor))
        if impl == "torch" or device.type not in self.kernels:
            if impl == "auto" and device.type == "cpu" and not torch.compiler.is_compiling():
                _warn_once()
            return self.reference(*args)
        if torch.compiler.is_compiling() or not self.differentiable:
            if torch.compiler.is_exporting() and torch._C._are_functorch_transforms_active():
                return self.reference(*args)  # has forward-mode derivatives, where those of the op are silent zeros
            return self.overload(*(map(in_order, args) if torch.compiler.is_compiling() else args))
        if self.selective and torch.is_grad_enabled():
            return _run(self._function, self.overload, [_off_leaf(a) for a in args])
        return _run(self._function, self.overload, args)

    def backend(self, device_type: str) -> tuple[str, str]:
        """Which implementation runs on a device type ("cpu", "cuda", ...), and why."""
        native = native_library()
        if device_type == "cpu":
            return ("torch", native.why_not) if native.why_not else self._native("c++", "genkern._C", native.cpu_ops)
        if device_type == "cuda" and self.name in native.cuda_ops:
            return self._native("cuda", "genkern/_cuda.so", native.cuda_ops)
        if device_type == "cuda" and "cuda" in self.kernels:
            return "triton", "triton is installed"
        if device_type == "cuda":
            if self._triton:
                return "torch", "no Triton kernel can run: triton is not installed"
            return "torch", native.why_not_cuda or "its definition is a matrix product, which a BLAS does"
        return "torch", f"genkern has no kernels for {device_type!r}"

    def _native(self, kind: str, library: str, ops: frozenset[str]) -> tuple[str, str]:
        return (kind, f"{library} is loaded") if self.name in ops else ("torch", f"{library} has no kernel for it")

    # -- the eager face -----------------------------------------------------------------------------------------

    @functools.cached_property
    def _function(self) -> Any:
        op = self

        class Forward(torch.autograd.Function):
            @staticmethod
            def forward(*args: Any) -> Any:
                with torch._C._AutoDispatchBelowAutograd():
                    return op.overload(*args)

            @staticmethod
            def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
                return _vmap_rule(op.reference)(info, in_dims, *args)

            @staticmethod
            def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
                _save(ctx, inputs)

            @staticmethod
            def backward(ctx: Any, *grads: Any) -> Any:
                inputs = _saved(ctx)
                needs = _needed(ctx, op.differentiable, inputs) if op.selective else []
                result = _run(op._function_backward, op.overload_backward, (*grads, *inputs, *needs))
                return op._spread(result, len(inputs), needs)

            @staticmethod
            def jvp(ctx: Any, *tangents: Any) -> Any:
                return _forward_mode(op.reference, _saved(ctx), tangents, op.differentiable)

        Forward.__name__ = Forward.__qualname__ = f"{self.name}"
        return Forward

    @functools.cached_property
    def _function_backward(self) -> Any:
        op = self
        differentiable = (*range(self.outputs), *(self.outputs + i for i in self.differentiable))

        class Backward(torch.autograd.Function):
            @staticmethod
            def forward(*args: Any) -> Any:
                with torch._C._AutoDispatchBelowAutograd():
                    return op.overload_backward(*args)

            @staticmethod
            def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
                return _vmap_rule(op.reference_backward)(info, in_dims, *args)

            @staticmethod
            def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
                _save(ctx, inputs)

            @staticmethod
            def backward(ctx: Any, *grads: Any) -> Any:
                if not op.second_order:
                    raise RuntimeError(f"{op.name}: second derivatives are not implemented; use impl='torch'.")
                return _pull_back(op.reference_backward, _saved(ctx), grads, differentiable)

            @staticmethod
            def jvp(ctx: Any, *tangents: Any) -> Any:
                return _forward_mode(op.reference_backward, _saved(ctx), tangents, differentiable)

        Backward.__name__ = Backward.__qualname__ = f"{self.name}_backward"
        return Backward

    def _spread(self, grads: Any, length: int, needs: Sequence[bool]) -> tuple[Any, ...]:
        """Gradients of the differentiable inputs, set among None for all the others."""
        spread: list[Any] = [None] * length
        grads = (grads,) if isinstance(grads, Tensor) else grads
        for k, (i, grad) in enumerate(zip(self.differentiable, grads, strict=True)):
            spread[i] = grad if not needs or needs[k] else None
        return tuple(spread)

    # -- the compiled face --------------------------------------------------------------------------------------

    def _register_autograd(self) -> None:
        def backward(ctx: Any, *grads: Any) -> Any:
            inputs = _saved(ctx)
            outputs = self._fake(*inputs)
            like = (outputs,) if isinstance(outputs, Tensor) else outputs
            dense = [torch.zeros_like(out) if g is None else g for g, out in zip(grads, like, strict=True)]
            needs = [ctx.needs_input_grad[i] for i in self.differentiable] if self.selective else []
            return self._spread(self.overload_backward(*dense, *inputs, *needs), len(inputs), needs)

        def second(ctx: Any, *grads: Any) -> Any:
            saved = _saved(ctx)
            differentiable = (*range(self.outputs), *(self.outputs + i for i in self.differentiable))
            return _pull_back(self.reference_backward, saved, grads, differentiable)

        def setup(ctx: Any, inputs: Any, output: Any) -> None:
            _save(ctx, inputs)

        torch.library.register_autograd(f"genkern::{self.name}", backward, setup_context=setup, lib=LIBRARY)
        torch.library.register_autograd(f"genkern::{self.name}_backward", second, setup_context=setup, lib=LIBRARY)

    def _fake(self, *args: Any) -> Any:
        with torch.no_grad():
            return self.reference(*args) if self.fake is None else self.fake(*args)

    def _fake_backward(self, *args: Any) -> Any:
        _, inputs, positions = self._split_backward(args)
        result = tuple(
            torch.empty_like(inputs[i]) if i in positions else inputs[i].new_empty(0) for i in self.differentiable
        )
        return result[0] if len(result) == 1 else result

    # -- CUDA: a Triton launcher in genkern/ops/<name>/triton.py, imported at the first call ---------------------

    @property
    def has_triton(self) -> bool:
        """Whether the GPU kernels are written in Triton; if not, in CUDA C++."""
        return self._triton is not None

    @functools.cached_property
    def _triton(self) -> str | None:
        """The module with the Triton launchers, where the op has one."""
        module = f"{self.definition.__module__.rpartition('.')[0]}.triton"
        return module if importlib.util.find_spec(module) is not None else None

    def _implement_on_cuda(self) -> bool:
        if self.name in native_library().cuda_ops:
            return True
        if self._triton is None or importlib.util.find_spec("triton") is None:
            return False
        for name in [self.name] + ([f"{self.name}_backward"] if self.differentiable else []):
            LIBRARY.impl(name, _on_device(self._triton, name), "CUDA")
        return True


def define_op(name: str, reference: Callable[..., Any], **description: Any) -> Op:
    """Registers an op once; see `Op` for what the description holds.

    Args:
        name: the op's name in ``torch.ops.genkern`` and in ``csrc/ops``.
        reference: the definition; its positional arguments are those of the schema, in order.
        schema: ``"(Tensor x, ...) -> (Tensor, Tensor)"``, in the dispatcher's language.
        differentiable: names of the tensor arguments that have a gradient.
        wide: indices of the outputs that are float32 or wider whatever the input.
        selective: the backward kernel takes a ``needs_<argument>`` flag for each differentiable argument, and returns
            an empty tensor for a gradient that nobody asked for: a gradient penalty does not pay for the parameters.
        fake: empty outputs for given inputs, where tracing the definition would take long.
    """
    if name in OPS:
        raise ValueError(f"define_op: {name!r} is defined already.")
    OPS[name] = op = Op(name, reference, **description)
    return op


# -- backends -------------------------------------------------------------------------------------------------------


@functools.cache
def _warn_once() -> None:
    warnings.warn(f"genkern runs on its PyTorch reference: {native_library().why_not}", stacklevel=5)


def _on_device(module: str, name: str) -> Callable[..., Any]:
    """A launcher that imports its module late and runs on the tensors' own device."""

    def launch(*args: Any) -> Any:
        device = next(a.device for a in args if isinstance(a, Tensor))
        with torch.cuda.device(device):
            return getattr(importlib.import_module(module), name)(*args)

    return launch


# -- derivatives of the reference -----------------------------------------------------------------------------------


def _run(function: Any, overload: Any, args: Sequence[Any]) -> Any:
    """Calls a Function the shortest way: none at all where only values are wanted, no binding of arguments in eager."""
    if torch._C._are_functorch_transforms_active():
        return function.apply(*args)
    forward_mode = torch.autograd.forward_ad._current_level >= 0
    if forward_mode or (torch.is_grad_enabled() and any(a.requires_grad for a in args if isinstance(a, Tensor))):
        return super(torch.autograd.Function, function).apply(*args)
    with torch._C._AutoDispatchBelowAutograd():
        return overload(*args)


def _is_floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _save(ctx: Any, inputs: Sequence[Any]) -> None:
    tensors = [value for value in inputs if isinstance(value, Tensor)]
    ctx.save_for_backward(*tensors)
    if hasattr(ctx, "save_for_forward"):
        ctx.save_for_forward(*tensors)
    ctx.plain = [None if isinstance(value, Tensor) else (value,) for value in inputs]


def _saved(ctx: Any) -> list[Any]:
    tensors = iter(ctx.saved_tensors)
    return [next(tensors) if entry is None else entry[0] for entry in ctx.plain]


def _needed(ctx: Any, positions: Sequence[int], inputs: Sequence[Any]) -> list[bool]:
    """Whether the backward under way uses the gradients of inputs; ``needs_input_grad`` speaks of the graph alone."""
    in_graph, nodes = ctx.needs_input_grad, iter(ctx.next_functions)  # one node for each tensor
    node_of = [next(nodes)[0] if isinstance(value, Tensor) else None for value in inputs]
    return [in_graph[i] and _will_run(node_of[i]) for i in positions]


def _will_run(node: Any) -> bool:
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError:  # a leaf that autograd.grad was asked for
        return True


def _off_leaf(value: Any) -> Any:
    """A view of a leaf: that the gradient of a leaf itself is needed, the engine says by an exception; that is slow."""
    return value.view_as(value) if isinstance(value, Tensor) and value.requires_grad and value.is_leaf else value


def in_order(value: Any) -> Any:
    """A tensor whose strides outputs and gradients will have: a graph is made for those, and kernels keep no others."""
    if not isinstance(value, Tensor) or value.is_contiguous():
        return value
    if value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last):
        return value
    return value.contiguous()


def _closed(function: Callable[..., Any], args: Sequence[Any], positions: Sequence[int]) -> Callable[..., Any]:
    """The function of the arguments at some positions, all the others held."""

    def closed(*new: Any) -> Any:
        full = list(args)
        for i, value in zip(positions, new, strict=True):
            full[i] = value
        return function(*full)

    return closed


def _pull_back(function: Callable[..., Any], args: Sequence[Any], grads: Any, positions: Sequence[int]) -> tuple:
    result: list[Any] = [None] * len(args)
    pullback = torch.func.vjp(_closed(function, args, positions), *(args[i] for i in positions))[1]
    pulled = pullback(grads[0] if len(grads) == 1 else tuple(grads))
    for i, grad in zip(positions, pulled, strict=True):
        result[i] = grad
    return tuple(result)


def _forward_mode(function: Callable[..., Any], args: Sequence[Any], tangents: Any, positions: Sequence[int]) -> Any:
    """J t as the derivative in u of the linear map u -> J' u, which needs reverse mode alone."""
    positions = [i for i in positions if tangents[i] is not None]
    closed = _closed(function, args, positions)
    outputs, pullback = torch.func.vjp(closed, *(args[i] for i in positions))[:2]
    dummy = torch.zeros_like(outputs) if isinstance(outputs, Tensor) else tuple(map(torch.zeros_like, outputs))
    transpose = torch.func.vjp(pullback, dummy)[1]
    (result,) = transpose(tuple(tangents[i] for i in positions))
    return result


def _lane_by_lane(overload: Any) -> Callable[..., Any]:
    """The vmap rule of a dispatcher op, where a nested `torch.vmap` is not allowed."""

    def rule(info: Any, in_dims: Any, *args: Any) -> Any:
        def lane(i: int) -> list[Any]:
            return [a if dim is None else a.select(dim, i) for a, dim in zip(args, in_dims, strict=True)]

        outputs = [overload(*lane(i)) for i in range(info.batch_size)]
        if isinstance(outputs[0], Tensor):
            return torch.stack(outputs), 0
        return tuple(map(torch.stack, zip(*outputs, strict=True))), (0,) * len(outputs[0])

    return rule


def _vmap_rule(function: Callable[..., Any]) -> Callable[..., Any]:
    def rule(info: Any, in_dims: Any, *args: Any) -> Any:
        output = torch.vmap(function, in_dims=in_dims, randomness=info.randomness)(*args)
        output = tree_map(lambda tensor: tensor.view_as(tensor), output)  # never an input itself
        return output, (0 if isinstance(output, Tensor) else (0,) * len(output))

    return rule
