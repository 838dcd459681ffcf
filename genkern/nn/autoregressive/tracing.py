"""From a network of causal layers to the program of `genkern.ops.causal_sample`, and its weights in one tensor."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from ...ops.causal_sample import reference as program
from .gated import gate
from .masked import CausalConv1d, MaskedConv2d, VerticalConv2d
from .recurrent import DiagonalBiLSTM, RowLSTM

LANES = 16  # a group's channels are padded to a multiple of it
MODULES = {nn.ReLU: program.RELU, nn.ELU: program.ELU, nn.Tanh: program.TANH, nn.Sigmoid: program.SIGMOID}
CONVOLUTIONS = (MaskedConv2d, VerticalConv2d, CausalConv1d)
RECURRENT = (RowLSTM, DiagonalBiLSTM)  # whose state a program has no instruction for
PASS = (nn.Identity, nn.Dropout, nn.Dropout2d)
CALLS = {
    "relu": program.RELU,
    "relu_": program.RELU,
    "elu": program.ELU,
    "tanh": program.TANH,
    "sigmoid": program.SIGMOID,
    "add": program.ADD,
    "iadd": program.ADD,
    "mul": program.MUL,
}


class Untraceable(ValueError):
    """The network has a part that is not a causal layer, or not one that can be sampled with a cache."""


class Tracer(fx.Tracer):
    """Stops at the convolutions and LSTMs; everything that is made of them is looked into."""

    def is_leaf_module(self, m: nn.Module, qualified_name: str) -> bool:
        return isinstance(m, CONVOLUTIONS + RECURRENT) or super().is_leaf_module(m, qualified_name)


class Layout(NamedTuple):
    """Where the channels of a value lie in its vector: parts, in each the groups, in each its channels, padded."""

    channels: int
    parts: int = 1
    groups: int = 1
    order: str = "contiguous"

    @property
    def width(self) -> int:
        exact = self.channels // (self.parts * self.groups)
        return (exact + LANES - 1) // LANES * LANES

    @property
    def size(self) -> int:
        return self.parts * self.groups * self.width

    def positions(self) -> Tensor:
        """Of each channel within the vector."""
        each = self.channels // self.parts
        part, rest = torch.arange(self.channels) // each, torch.arange(self.channels) % each
        if self.order == "interleaved":
            group, index = rest % self.groups, rest // self.groups
        else:
            group, index = rest // (each // self.groups), rest % (each // self.groups)
        return (part * self.groups + group) * self.width + index

    def of_part(self) -> Layout:
        return Layout(self.channels // self.parts, 1, self.groups, self.order)


class Value(NamedTuple):
    """A buffer, or a part of its vectors."""

    buffer: int
    offset: int
    layout: Layout


class Stack:
    """A traced network: which program it is, and how its weights are packed.

    Args:
        network: from pixels in [-1, 1], ``[B, C, H, W]``, and a condition ``[B, M]`` if it takes one, to logits
            ``[B, C * levels, H, W]``.
        sub_pixels: ``C``.
        conditional: whether the network is to be called with a condition.
    """

    def __init__(self, network: nn.Module, sub_pixels: int, *, conditional: bool = False):
        absent = {"condition": None} if not conditional and _takes_condition(network) else None
        try:
            graph = Tracer().trace(network, absent)
        except (fx.proxy.TraceError, TypeError) as error:  # control flow, or a shape, that depends on the picture
            raise Untraceable(f"sample: the network cannot be traced for a cached sampler: {error}") from error
        for node in reversed(graph.nodes):
            if _name(node) == "_assert_is_none" or (node.op == "placeholder" and not node.users):
                graph.erase_node(node)  # the condition that is not there
        self.graph, self.modules, self.sub_pixels = graph, dict(network.named_modules()), sub_pixels
        self.constant = _depends_on_condition_alone(graph)
        self.conditions = [n for n in self.constant if any(user not in self.constant for user in n.users)]
        self.layouts = self._infer_layouts()
        numbered, self.count = _numbered(network)
        self.program, index = self._build(dict(numbered.named_modules()))
        self.code, self.index = program.encode(self.program), index.long()
        packed = self._build(self.modules)[1]
        self.selects = bool(torch.equal(self._select(network).to(packed), packed))  # weights are parameters as they are

    # -- running ------------------------------------------------------------------------------------------------

    def weights(self, network: nn.Module) -> Tensor:
        """All weights of the network as they are now, ``[N]``."""
        return self._select(network) if self.selects else self._build(dict(network.named_modules()))[1]

    def _select(self, network: nn.Module) -> Tensor:
        parameters = [p.detach().flatten() for p in network.parameters()]
        flat = torch.cat([parameters[0].new_zeros(1), *parameters])
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
            padded[:, layout.positions()] = env[node]
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
        halves: list[tuple[fx.Node, fx.Node, int]] = []  # a value, one like its parts, and how many
        for node in self.graph.nodes:
            find(node)
            module = self.modules.get(str(node.target)) if node.op == "call_module" else None
            if isinstance(module, MaskedConv2d):
                wishes.append((node, layout_of(module.sub_pixel_out, module.sub_pixels)))
            elif isinstance(module, RECURRENT):
                raise Untraceable(f"sample: {type(module).__name__} cannot be part of a cached sampler.")
            elif isinstance(module, CausalConv1d):
                wishes.append((node, Layout(module.weight.shape[0])))
            elif isinstance(module, VerticalConv2d | nn.Conv2d | nn.Conv1d):
                wishes.append((node, Layout(module.out_channels)))
            elif isinstance(module, nn.Linear):
                wishes.append((node, Layout(module.out_features)))
            elif _is(node, gate):
                x, condition, link = _gate_arguments(node)
                for other in (condition, link):
                    if other is not None:
                        leader[find(other)] = find(x)
                halves.append((x, node, 2))
            elif _is_chunk(node):
                parts = node.args[1] if len(node.args) > 1 else node.kwargs["chunks"]
                for user in node.users:
                    halves.append((node.args[0], user, parts))
            else:
                for other in node.all_input_nodes:
                    if node.op != "output" and not _is_chunk(other):
                        leader[find(node)] = find(other)
        layouts: dict[fx.Node, Layout] = {}
        for _ in range(len(self.graph.nodes)):
            before = dict(layouts)
            for node, wish in wishes:
                layouts[find(node)] = _joined(layouts.get(find(node)), wish)
            for whole, part, parts in halves:
                known, of_part = layouts.get(find(whole)), layouts.get(find(part))
                if known is not None:
                    layouts[find(whole)] = known = _joined(known, known._replace(parts=parts))
                    layouts[find(part)] = _joined(of_part, known.of_part())
                    if of_part is not None and of_part.groups > known.groups:
                        layouts[find(whole)] = known._replace(groups=of_part.groups, order=of_part.order)
            if layouts == before:
                break
        return {node: layouts[find(node)] for node in self.graph.nodes if find(node) in layouts}

    # -- the program --------------------------------------------------------------------------------------------

    def _build(self, modules: dict[str, nn.Module]) -> tuple[program.Program, Tensor]:
        return Builder(self, modules).build()


class Builder:
    """Goes through the graph once, and writes instructions and weights."""

    def __init__(self, stack: Stack, modules: dict[str, nn.Module]):
        self.stack, self.modules = stack, modules
        self.sizes = [stack.sub_pixels]
        self.late = [True]
        self.instructions: list[program.Instruction] = []
        self.weights: list[Tensor] = []
        self.length = 0
        self.values: dict[fx.Node, Any] = {}

    def build(self) -> tuple[program.Program, Tensor]:
        stack, output = self.stack, None
        condition_at = 0
        at: dict[fx.Node, int] = {}
        for node in stack.conditions:
            at[node] = condition_at
            condition_at += stack.layouts[node].size
        for node in stack.graph.nodes:
            if node in stack.constant:
                continue
            if node.op == "placeholder":
                self.values[node] = Value(0, 0, Layout(stack.sub_pixels))
            elif node.op == "output":
                output = node.args[0]
            elif node.op == "call_module":
                self.values[node] = self.module(node, self.modules[str(node.target)], self.values[node.args[0]])
            elif _is(node, gate):
                x, condition, link = _gate_arguments(node)
                a, b = self.values[x], None if link is None else self.values[link]
                self.values[node] = self.map(
                    program.GATE, a.layout.of_part(), a, b, -1 if condition is None else at[condition]
                )
            elif _is_chunk(node):
                whole: Value = self.values[node.args[0]]
                part = whole.layout.of_part()
                self.values[node] = [
                    Value(whole.buffer, whole.offset + k * part.size, part) for k in range(whole.layout.parts)
                ]
            elif node.op == "call_function" and node.target is operator.getitem:
                self.values[node] = self.values[node.args[0]][node.args[1]]
            elif node.op in ("call_function", "call_method") and _name(node) in CALLS:
                self.values[node] = self.call(node, CALLS[_name(node)])
            else:
                raise Untraceable(f"sample: {node.format_node()} cannot be part of a cached sampler.")
        assert isinstance(output, fx.Node)
        logits: Value = self.values[output]
        passes, layout = logits.layout.groups, logits.layout
        if passes not in (1, stack.sub_pixels) or layout.channels % stack.sub_pixels or layout.parts != 1:
            raise Untraceable(f"sample: the network must give {stack.sub_pixels} groups of logits; got {layout}.")
        step = layout.width if passes > 1 else layout.channels // stack.sub_pixels
        buffers = self.buffers()
        found = program.Program(
            passes, stack.sub_pixels, logits.buffer, logits.offset, step, buffers, self.instructions
        )
        return found, torch.cat(self.weights)

    def call(self, node: fx.Node, kind: int) -> Value:
        """A function of one value, or of two."""
        count = 2 if kind in (program.ADD, program.MUL) else 1
        operands = [self.values[n] for n in node.args[:count] if isinstance(n, fx.Node)]
        options = [*node.args[count:], *(value for name, value in node.kwargs.items() if name != "inplace")]
        if len(operands) != count or any(option not in (None, False, True) for option in options):
            raise Untraceable(f"sample: {node.format_node()} cannot be part of a cached sampler.")
        return self.map(kind, operands[0].layout, *operands)

    def module(self, node: fx.Node, module: nn.Module, x: Value) -> Value:
        if isinstance(module, PASS):
            return x
        if type(module) in MODULES:
            if isinstance(module, nn.ELU) and module.alpha != 1:
                raise Untraceable(f"sample: alpha of ELU must be 1; got {module.alpha}.")
            return self.map(MODULES[type(module)], x.layout, x)
        if isinstance(module, CONVOLUTIONS):
            offsets, matrices = module.taps()
        elif (
            isinstance(module, nn.Conv2d | nn.Conv1d)
            and set(module.kernel_size) == {1}
            and module.groups == 1
            and set(module.stride) == {1}
        ):
            offsets, matrices = [(0, 0)], module.weight.flatten(1).T[None]
        else:
            raise Untraceable(f"sample: {module} cannot be part of a cached sampler.")
        return self.conv(self.stack.layouts[node], offsets, matrices, module.bias, x)

    def conv(
        self, layout: Layout, offsets: list[tuple[int, int]], matrices: Tensor, bias: Tensor | None, x: Value
    ) -> Value:
        if len(offsets) > 1 and x.layout.size != self.sizes[x.buffer] and x.buffer:
            x = self.map(program.COPY, x.layout, x)  # neighbouring taps are read as one vector
        size = x.layout.size if x.buffer else self.sizes[0]
        rows = x.layout.positions() if x.buffer else torch.arange(size)
        padded = matrices.detach().new_zeros(len(offsets), size, layout.size)
        padded[:, rows[:, None], layout.positions()] = matrices.detach()
        runs: list[program.Run] = []
        for k, (row, column) in enumerate(offsets):
            if runs and runs[-1].row == row and runs[-1].column + runs[-1].taps == column:
                runs[-1] = runs[-1]._replace(taps=runs[-1].taps + 1)
                self.append(padded[k])
            else:
                runs.append(program.Run(row, column, 1, self.append(padded[k])))
        waits = self.late[x.buffer]
        late = [run for run in runs if waits and run.row == 0]
        if any(run.row > 0 or (waits and run.row == 0 and run.column + run.taps > 1) for run in runs) or len(late) > 1:
            raise Untraceable("sample: a convolution sees pixels of its own row to the right, which are not drawn yet.")
        early = tuple(run for run in runs if run not in late)
        target = self.buffer(layout.size, bool(late))
        place = -1
        if bias is not None:
            vector = bias.detach().new_zeros(layout.size)
            vector[layout.positions()] = bias.detach()
            place = self.append(vector)
        self.instructions.append(
            program.Instruction(
                program.CONV, target, layout.parts, layout.groups, layout.width, x.buffer, x.offset,
                size=size, bias=place, late=late[0] if late else program.Run(0, 0, 0, 0), early=early,
            )
        )  # fmt: skip
        return Value(target, 0, layout)

    def map(self, kind: int, layout: Layout, a: Value, b: Value | None = None, condition: int = -1) -> Value:
        if b is not None and a.layout != b.layout:
            raise Untraceable(f"sample: values of layouts {a.layout} and {b.layout} meet.")
        if a.buffer == 0:
            raise Untraceable("sample: the picture must first go through a convolution.")
        target = self.buffer(layout.size, self.late[a.buffer] or (b is not None and self.late[b.buffer]))
        second = (b.buffer, b.offset) if b is not None else (-1, 0)
        self.instructions.append(
            program.Instruction(
                kind, target, layout.parts, layout.groups, layout.width, a.buffer, a.offset, *second, condition
            )
        )
        return Value(target, 0, layout)

    def buffer(self, size: int, late: bool) -> int:
        self.sizes.append(size)
        self.late.append(late)
        return len(self.sizes) - 1

    def append(self, weights: Tensor) -> int:
        self.weights.append(weights.flatten())
        self.length += weights.numel()
        return self.length - weights.numel()

    def buffers(self) -> list[program.Buffer]:
        """Rows that must be kept, and columns of padding, by what reads them."""
        found = [program.Buffer(size, 1, 0, 0) for size in self.sizes]
        for step in self.instructions:
            for run in (*step.early, step.late):
                buffer = found[step.a]
                found[step.a] = buffer._replace(
                    rows=max(buffer.rows, 1 - run.row),
                    left=max(buffer.left, -run.column),
                    right=max(buffer.right, run.column + run.taps - 1),
                )
        return found


# -- the graph ---------------------------------------------------------------------------------------------------------


def layout_of(sub_pixel: Tensor, sub_pixels: int) -> Layout:
    """The layout whose channels belong to these sub-pixels."""
    from .masked import sub_pixel_of

    channels = len(sub_pixel)
    for parts in range(1, channels + 1):
        for order in ("contiguous", "interleaved"):
            if channels % (parts * sub_pixels) == 0:
                if torch.equal(sub_pixel_of(channels, sub_pixels, order, parts=parts), sub_pixel.cpu()):
                    return Layout(channels, parts, sub_pixels, order)
    raise Untraceable(f"sample: no layout has the sub-pixels {sub_pixel.tolist()}.")


def _joined(one: Layout | None, other: Layout) -> Layout:
    if one is None:
        return other
    if one.channels != other.channels:
        raise Untraceable(f"sample: values of {one.channels} and {other.channels} channels meet.")
    first, second = (one, other) if one.groups >= other.groups else (other, one)
    return first._replace(parts=max(first.parts, second.parts))


def _takes_condition(network: nn.Module) -> bool:
    import inspect

    return "condition" in inspect.signature(network.forward).parameters


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
    return values["x"], values.get("condition"), values.get("link")


def _is(node: fx.Node, function: Callable[..., Any]) -> bool:
    return node.op == "call_function" and node.target is function


def _is_chunk(node: fx.Node) -> bool:
    return node.op in ("call_method", "call_function") and _name(node) == "chunk"


def _name(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")


def _numbered(network: nn.Module) -> tuple[nn.Module, int]:
    """A copy whose parameters are the numbers 1, 2, 3, …, so that packing it says where every weight goes."""
    numbered, count = copy.deepcopy(network).double(), 0
    with torch.no_grad():
        for parameter in numbered.parameters():
            size = parameter.numel()
            parameter.copy_(torch.arange(count + 1, count + size + 1, dtype=torch.float64).view(parameter.shape))
            count += size
    return numbered, count
