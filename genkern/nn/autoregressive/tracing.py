"""From a network of causal layers to the program of `genkern.ops.causal_sample`, and its weights in one tensor."""

from __future__ import annotations

import copy
import inspect
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from ...ops import concat_elu, gated_activation
from ...ops.causal_sample import reference as program
from .building import Builder, Value
from .gated import gate
from .layouts import Layout, Untraceable, joined, layout_of
from .masked import CausalConv1d, MaskedConv2d, VerticalConv2d
from .recurrent import DiagonalBiLSTM, RowLSTM
from .shifted import ShiftedConv2d, with_ones

MODULES = {
    nn.ReLU: program.RELU,
    nn.ELU: program.ELU,
    nn.SiLU: program.SILU,
    nn.Tanh: program.TANH,
    nn.Sigmoid: program.SIGMOID,
}
CONVOLUTIONS = (MaskedConv2d, VerticalConv2d, CausalConv1d, ShiftedConv2d)
RECURRENT = (RowLSTM, DiagonalBiLSTM)  # whose state a program has no instruction for
PASS = (nn.Identity, nn.Dropout, nn.Dropout2d)
GATES = (gate, gated_activation)
CALLS = {
    "relu": program.RELU,
    "relu_": program.RELU,
    "elu": program.ELU,
    "silu": program.SILU,
    "tanh": program.TANH,
    "sigmoid": program.SIGMOID,
    "add": program.ADD,
    "iadd": program.ADD,
    "mul": program.MUL,
}


class Tracer(fx.Tracer):
    """Stops at the convolutions and LSTMs; everything that is made of them is looked into."""

    def __init__(self) -> None:
        super().__init__(autowrap_functions=(gated_activation, concat_elu, with_ones))

    def is_leaf_module(self, m: nn.Module, qualified_name: str) -> bool:
        return isinstance(m, CONVOLUTIONS + RECURRENT) or super().is_leaf_module(m, qualified_name)


class Stack:
    """A traced network: which program it is, and how its weights are packed.

    Args:
        network: from pixels in [-1, 1], ``[B, C, H, W]``, a condition ``[B, M]`` if it takes one, and features
            ``[B, F, H, W]`` if it takes those, to parameters of the pixels, ``[B, *, H, W]``.
        sub_pixels: ``C``.
        head: ``"categorical"``, logits of the levels; ``"mixture"``, of logistics; or ``"quantile"``.
        conditional: whether the network is to be called with a condition.
        features: ``F``, or 0 where it is not to be called with features.
    """

    def __init__(
        self,
        network: nn.Module,
        sub_pixels: int,
        *,
        head: str = "categorical",
        conditional: bool = False,
        features: int = 0,
    ):
        wanted = {"condition": conditional, "features": features > 0}
        taken = inspect.signature(network.forward).parameters
        absent = {name: None for name, is_wanted in wanted.items() if name in taken and not is_wanted}
        try:
            graph = Tracer().trace(network, absent or None)
        except (fx.proxy.TraceError, TypeError) as error:  # control flow, or a shape, that depends on the picture
            raise Untraceable(f"sample: the network cannot be traced for a cached sampler: {error}") from error
        for node in reversed(graph.nodes):
            if _name(node) == "_assert_is_none" or (node.op == "placeholder" and not node.users):
                graph.erase_node(node)  # what is not there
        self.graph, self.modules, self.sub_pixels = graph, dict(network.named_modules()), sub_pixels
        self.head, self.features = head, features
        self.constant = _depends_on_condition_alone(graph)
        self.conditions = [n for n in self.constant if any(user not in self.constant for user in n.users)]
        self.layouts = self._infer_layouts()
        numbered, self.names, self.count = _numbered(network)
        self.program, index = self._build(dict(numbered.named_modules()))
        self.code, self.index = program.encode(self.program), index.long()
        packed = self._build(self.modules)[1]
        known = bool(((self.index >= 0) & (self.index <= self.count)).all())
        self.selects = known and bool(torch.equal(self._select(network).to(packed), packed))  # nothing else is done

    # -- running ------------------------------------------------------------------------------------------------

    def weights(self, network: nn.Module) -> Tensor:
        """All weights of the network as they are now, ``[N]``."""
        return self._select(network) if self.selects else self._build(dict(network.named_modules()))[1]

    def _select(self, network: nn.Module) -> Tensor:
        tensors = [operator.attrgetter(name)(network).detach().flatten() for name in self.names]
        flat = torch.cat([tensors[0].new_zeros(1), *tensors])
        if self.index.device != flat.device:
            self.index = self.index.to(flat.device)
        return flat[self.index]

    def condition_vectors(self, network: nn.Module, condition: Tensor) -> Tensor:
        """What the condition adds to every gate, in the layout of the program, ``[B, M]``."""
        modules, env = dict(network.named_modules()), {}
        for node in self.constant:
            if node.op == "placeholder":
                env[node] = condition
                continue
            args = fx.node.map_arg(node.args, lambda n: env[n])
            kwargs = fx.node.map_arg(node.kwargs, lambda n: env[n])
            if node.op == "call_module":
                env[node] = modules[str(node.target)](*args, **kwargs)
            elif node.op == "call_method":
                env[node] = getattr(args[0], str(node.target))(*args[1:], **kwargs)
            else:
                env[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        parts = []
        for node in self.conditions:
            layout = self.layouts[node]
            padded = env[node].new_zeros(len(condition), layout.size)
            padded[:, layout.positions()] = env[node].flatten(1)
            parts.append(padded)
        return torch.cat(parts, 1)

    # -- layouts ------------------------------------------------------------------------------------------------

    def _infer_layouts(self) -> dict[fx.Node, Layout]:
        """Values that meet in an elementwise operation lie alike: as masked convolutions and gates among them ask."""
        leader: dict[fx.Node, fx.Node] = {}

        def find(node: fx.Node) -> fx.Node:
            while leader.setdefault(node, node) is not node:
                node = leader[node]
            return node

        wishes: list[tuple[fx.Node, Layout]] = []  # parts and groups that a value must have at least
        pieces: list[tuple[fx.Node, fx.Node, int]] = []  # a value, one like its pieces, and how many
        for node in self.graph.nodes:
            find(node)
            module = self.modules.get(str(node.target)) if node.op == "call_module" else None
            if isinstance(module, MaskedConv2d):
                wishes.append((node, layout_of(module.sub_pixel_out, module.sub_pixels)))
            elif isinstance(module, RECURRENT):
                raise Untraceable(f"sample: {type(module).__name__} cannot be part of a cached sampler.")
            elif isinstance(module, CausalConv1d):
                wishes.append((node, Layout(module.weight.shape[0])))
            elif isinstance(module, VerticalConv2d | ShiftedConv2d | nn.Conv2d | nn.Conv1d):
                wishes.append((node, Layout(module.out_channels)))
            elif isinstance(module, nn.Linear):
                wishes.append((node, Layout(module.out_features)))
            elif _is(node, *GATES):
                x, condition, link = _gate_arguments(node)
                for other in (condition, link):
                    if other is not None:
                        leader[find(other)] = find(x)
                pieces.append((x, node, 2))
            elif _name(node) == "glu":
                pieces.append((node.all_input_nodes[0], node, 2))
            elif _is(node, concat_elu):
                pieces.append((node, node.all_input_nodes[0], 2))
            elif _name(node) in ("cat", "concat"):
                pieces.extend((node, other, len(node.all_input_nodes)) for other in node.all_input_nodes)
            elif _is_chunk(node):
                count = node.args[1] if len(node.args) > 1 else node.kwargs["chunks"]
                pieces.extend((node.args[0], user, count) for user in node.users)
            elif not _is(node, with_ones):
                for other in node.all_input_nodes:
                    if node.op != "output" and not _is_chunk(other):
                        leader[find(node)] = find(other)
        layouts: dict[fx.Node, Layout] = {}
        for _ in range(len(self.graph.nodes)):
            before = dict(layouts)
            for node, wish in wishes:
                layouts[find(node)] = joined(layouts.get(find(node)), wish)
            for whole, piece, count in pieces:
                known, of_piece = layouts.get(find(whole)), layouts.get(find(piece))
                if known is None and of_piece is not None:
                    known = of_piece.times(count)
                if known is not None:
                    layouts[find(whole)] = known = known.cut(count)
                    layouts[find(piece)] = joined(of_piece, known.of_part(count))
                    if of_piece is not None and of_piece.groups > known.groups:
                        layouts[find(whole)] = known._replace(groups=of_piece.groups, order=of_piece.order)
            if layouts == before:
                break
        return {node: layouts[find(node)] for node in self.graph.nodes if find(node) in layouts}

    # -- the program --------------------------------------------------------------------------------------------

    def _build(self, modules: dict[str, nn.Module]) -> tuple[program.Program, Tensor]:
        ones = any(_is(node, with_ones) for node in self.graph.nodes)
        builder = Builder(self.sub_pixels, ones=ones, features=self.features)
        values: dict[fx.Node, Any] = {}
        at: dict[fx.Node, int] = {}
        for node in self.conditions:
            at[node] = sum(self.layouts[other].size for other in at)
        for node in self.graph.nodes:
            if node.op == "output":
                return builder.finish(values[node.args[0]], self.head)
            if node not in self.constant:
                values[node] = self._value(builder, node, values, at, modules)
        raise AssertionError("a graph ends with its output")

    def _value(
        self,
        builder: Builder,
        node: fx.Node,
        values: dict[fx.Node, Any],
        at: dict[fx.Node, int],
        modules: dict[str, nn.Module],
    ) -> Any:
        """What a node gives, after the instructions that compute it."""
        args: Any = node.args
        if node.op == "placeholder":
            return builder.features if node.target == "features" else builder.picture
        if node.op == "call_module":
            return _module(builder, self.layouts.get(node), modules[str(node.target)], values[args[0]])
        if _is(node, *GATES):
            x, condition, link = _gate_arguments(node)
            a, b = values[x], None if link is None else values[link]
            return builder.map(program.GATE, a.layout.of_part(2), a, b, -1 if condition is None else at[condition])
        if _is(node, with_ones) and values[args[0]] == builder.picture:
            return builder.picture_and_ones
        if _is(node, concat_elu):
            x = values[args[0]]
            return builder.concatenate(x.layout.times(2), [(program.ELU, x), (program.NEGATIVE_ELU, x)])
        if _name(node) in ("cat", "concat") and _dim(node) == 1:
            parts = [(program.COPY, values[n]) for n in node.all_input_nodes]
            return builder.concatenate(self.layouts[node], parts)
        if _name(node) == "glu" and _dim(node) == 1:
            x = values[args[0]]
            return builder.map(program.GLU, x.layout.of_part(2), x)
        if _is_chunk(node):
            whole: Value = values[args[0]]
            count: Any = args[1] if len(args) > 1 else node.kwargs["chunks"]
            part = whole.layout.of_part(count)
            return [Value(whole.buffer, whole.offset + k * part.size, part) for k in range(count)]
        if _is(node, operator.getitem) and isinstance(values[args[0]], list):
            return values[args[0]][args[1]]
        if node.op in ("call_function", "call_method") and _name(node) in CALLS:
            return self._call(builder, node, values, at, CALLS[_name(node)])
        raise Untraceable(f"sample: {node.format_node()} cannot be part of a cached sampler.")

    def _call(
        self, builder: Builder, node: fx.Node, values: dict[fx.Node, Any], at: dict[fx.Node, int], kind: int
    ) -> Value:
        """A function of one value, or of two, one of which may be a condition that is added."""
        count = 2 if kind in (program.ADD, program.MUL) else 1
        terms = [at[n] for n in node.args[:count] if isinstance(n, fx.Node) and n in self.constant]
        operands = [values[n] for n in node.args[:count] if isinstance(n, fx.Node) and n not in self.constant]
        options = [*node.args[count:], *(value for name, value in node.kwargs.items() if name != "inplace")]
        fits = len(operands) + len(terms) == count and len(operands) > 0 and (not terms or kind == program.ADD)
        if not fits or any(option not in (None, False, True) for option in options):
            raise Untraceable(f"sample: {node.format_node()} cannot be part of a cached sampler.")
        second = operands[1] if len(operands) > 1 else None
        return builder.map(kind, operands[0].layout, operands[0], second, terms[0] if terms else -1)


# -- the graph ---------------------------------------------------------------------------------------------------------


def _module(builder: Builder, layout: Layout | None, module: nn.Module, x: Value) -> Value:
    if isinstance(module, PASS):
        return x
    if type(module) in MODULES:
        if isinstance(module, nn.ELU) and module.alpha != 1:
            raise Untraceable(f"sample: alpha of ELU must be 1; got {module.alpha}.")
        return builder.map(MODULES[type(module)], x.layout, x)
    assert layout is not None or not isinstance(module, CONVOLUTIONS)
    if isinstance(module, ShiftedConv2d) and layout is not None:
        halves, doubles = (1, module.stride) if module.transposed else (module.stride, 1)
        return builder.conv(layout, module.phases(), module.bias, x, halves=halves, doubles=doubles)
    if isinstance(module, MaskedConv2d | VerticalConv2d | CausalConv1d) and layout is not None:
        return builder.conv(layout, [(0, 0, *module.taps())], module.bias, x)
    if (
        isinstance(module, nn.Conv2d | nn.Conv1d)
        and set(module.kernel_size) == {1}
        and module.groups == 1
        and set(module.stride) == {1}
        and layout is not None
    ):
        return builder.conv(layout, [(0, 0, [(0, 0)], module.weight.flatten(1).T[None])], module.bias, x)
    raise Untraceable(f"sample: {module} cannot be part of a cached sampler.")


def _depends_on_condition_alone(graph: fx.Graph) -> list[fx.Node]:
    found: list[fx.Node] = []
    for node in graph.nodes:
        if node.op == "placeholder" and node.target == "condition" and node.users:
            found.append(node)
        elif node.op != "output" and node.all_input_nodes and all(n in found for n in node.all_input_nodes):
            found.append(node)
    return found


def _gate_arguments(node: fx.Node) -> tuple[Any, Any, Any]:
    names = ("x", "condition", "link")
    values = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    if values.get("bias") is not None:
        raise Untraceable(f"sample: {node.format_node()} cannot be part of a cached sampler.")
    return values["x"], values.get("condition"), values.get("link")


def _is(node: fx.Node, *functions: Callable[..., Any]) -> bool:
    return node.op == "call_function" and node.target in functions


def _is_chunk(node: fx.Node) -> bool:
    return node.op in ("call_method", "call_function") and _name(node) == "chunk"


def _dim(node: fx.Node) -> Any:
    return node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)


def _name(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")


def _numbered(network: nn.Module) -> tuple[nn.Module, list[str], int]:
    """A copy whose weights are the numbers 1, 2, 3, …, so that packing it says where every one goes; their names.

    Of a layer with a parametrization, as weight normalisation, the weight is what that gives.
    """
    numbered, names, count = copy.deepcopy(network).double(), [], 0
    for module in list(numbered.modules()):
        if parametrize.is_parametrized(module):  # not removed as by PyTorch, which would change the class they share
            parametrizations: Any = module.parametrizations
            values = {name: getattr(module, name).detach() for name in parametrizations}
            module.__class__ = parametrize.type_before_parametrizations(module)
            del module.parametrizations
            for name, value in values.items():
                module.register_parameter(name, nn.Parameter(value))
    with torch.no_grad():
        for name, parameter in numbered.named_parameters():
            size = parameter.numel()
            parameter.copy_(torch.arange(count + 1, count + size + 1, dtype=torch.float64).view(parameter.shape))
            names.append(name)
            count += size
    return numbered, names, count


__all__ = ["Stack", "Untraceable"]
