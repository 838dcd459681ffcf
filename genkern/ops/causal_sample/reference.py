"""Cached sampling from a stack of causal layers in plain PyTorch: every activation is computed once.

The stack is a *program*: buffers, each a map of vectors over the pixels, and instructions that fill them. What a row
of a buffer needs from the rows above is computed for the whole row at once; what it needs from the row itself, pixel
by pixel as these are drawn, and where a pixel has several passes (R, G, B), for the channels of one at a time. A buffer
of a lower resolution has a vector for every square of ``scale`` x ``scale`` pixels, computed with the first of them.

A program travels as a list of integers, and its weights in one flat tensor:

    passes, sub-pixels, head, buffer of parameters, offset of the first, numbers of one draw, from one to the next,
    buffer of features, number of buffers, number of instructions,
    buffers:       size of a vector, rows kept, columns of padding on the left, on the right, scale
    instructions:  kind, buffer, its offset, parts, groups, width, source, its offset, ...
      CONV         size, at[bias], row and column of what it fills, late taps, first column, at[late],
                   number of early runs, runs: row, first column, taps, at[run]
      other kinds  b, its offset, at[condition]

A vector of a buffer holds parts x groups x width numbers: its halves (of a gate), in each the channels of a group (a
sub-pixel), in each its channels, padded with zeros. Positions that are -1 are not there. A run is a number of
neighbouring taps of one row, as a matrix [taps * size, parts * groups * width]. A convolution between resolutions reads
every second vector, or fills those at its row and column of every square of four.

Buffer 0 is the picture, in [-1, 1]; if it has one more number, that is 1 in every pixel. The features are a map that is
given whole.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import elu, silu

CONV, ADD, MUL, GATE, COPY, RELU, ELU, NEGATIVE_ELU, TANH, SIGMOID, SILU, GLU = range(12)
MAPS = {
    RELU: torch.relu,
    ELU: elu,
    NEGATIVE_ELU: lambda x: elu(-x),
    TANH: torch.tanh,
    SIGMOID: torch.sigmoid,
    SILU: silu,
    COPY: torch.clone,
}
CATEGORICAL, MIXTURE, QUANTILE = range(3)
MIN_LOG_SCALE = -7.0  # of a mixture


class Buffer(NamedTuple):
    size: int
    rows: int
    left: int
    right: int
    scale: int = 1


class Run(NamedTuple):
    row: int
    column: int
    taps: int
    at: int


class Instruction(NamedTuple):
    kind: int
    target: int
    target_offset: int
    parts: int
    groups: int
    width: int
    a: int  # the source
    a_offset: int
    b: int = -1
    b_offset: int = 0
    condition: int = -1
    size: int = 0  # of a convolution: numbers of the source's vector that it reads
    bias: int = -1
    row: int = 0  # of the square that it fills a vector of, where it doubles the resolution
    column: int = 0
    late: Run = Run(0, 0, 0, 0)
    early: tuple[Run, ...] = ()

    @property
    def outputs(self) -> int:
        return self.parts * self.groups * self.width

    @property
    def taken(self) -> int:
        """How many numbers of a source an elementwise instruction reads."""
        return self.outputs * (2 if self.kind in (GATE, GLU) else 1)


class Program(NamedTuple):
    passes: int
    sub_pixels: int
    head: int
    logits: int
    logits_offset: int
    outputs: int
    logits_step: int
    features: int
    buffers: list[Buffer]
    instructions: list[Instruction]

    def waits(self) -> list[bool]:
        """Whether each instruction waits for pixels of its own row."""
        late, found = [True] + [False] * (len(self.buffers) - 1), []
        for step in self.instructions:
            waits = step.late.taps > 0 if step.kind == CONV else late[step.a] or (step.b >= 0 and late[step.b])
            late[step.target] |= waits
            found.append(waits)
        return found

    def late(self) -> list[bool]:
        """Whether each buffer has an instruction that does."""
        late = [True] + [False] * (len(self.buffers) - 1)
        for step, waits in zip(self.instructions, self.waits(), strict=True):
            late[step.target] |= waits
        return late

    def strides(self, step: Instruction) -> tuple[int, int]:
        """From a vector that an instruction reads to the next, and from one that it fills to the next."""
        source, target = self.buffers[step.a].scale, self.buffers[step.target].scale
        return max(target // source, 1), max(source // target, 1)

    def draws(self) -> int:
        """How many sub-pixels one draw gives: those of a pixel from a mixture, else one."""
        return self.sub_pixels if self.head == MIXTURE else 1


def encode(program: Program) -> list[int]:
    code = [*program[:8], len(program.buffers), len(program.instructions)]
    for buffer in program.buffers:
        code += buffer
    for step in program.instructions:
        code += step[:8]
        if step.kind == CONV:
            late = step.late
            code += [step.size, step.bias, step.row, step.column, late.taps, late.column, late.at, len(step.early)]
            for run in step.early:
                code += run
        else:
            code += [step.b, step.b_offset, step.condition]
    return code


def decode(code: list[int]) -> Program:
    words = iter(code)

    def take(count: int) -> list[int]:
        return [next(words) for _ in range(count)]

    passes, sub_pixels, head, logits, logits_offset, outputs, logits_step, features, count, length = take(10)
    buffers = [Buffer(*take(5)) for _ in range(count)]
    instructions = []
    for _ in range(length):
        kind, target, offset, parts, groups, width, a, a_offset = take(8)
        step = Instruction(kind, target, offset, parts, groups, width, a, a_offset)
        if kind == CONV:
            size, bias, row, column, taps, first, at, runs = take(8)
            early, late = tuple(Run(*take(4)) for _ in range(runs)), Run(0, first, taps, at)
            step = step._replace(size=size, bias=bias, row=row, column=column, late=late, early=early)
        else:
            b, b_offset, condition = take(3)
            step = step._replace(b=b, b_offset=b_offset, condition=condition)
        instructions.append(step)
    return Program(
        passes, sub_pixels, head, logits, logits_offset, outputs, logits_step, features, buffers, instructions
    )


class Canvas:
    """The buffers of a batch, ``[B, H + rows, W + padding, size]``, and what the instructions do to them."""

    def __init__(self, program: Program, weights: Tensor, conditions: Tensor, features: Tensor, free: Tensor):
        self.program, self.weights, self.conditions = program, weights, conditions
        height, width = free.shape
        self.maps = [
            weights.new_zeros(len(conditions), height // b.scale + b.rows, b.left + width // b.scale + b.right, b.size)
            for b in program.buffers
        ]
        if program.features >= 0:
            buffer = program.buffers[program.features]
            self.maps[program.features][:, buffer.rows :, buffer.left : buffer.left + width] = features

    def window(self, buffer: int, row: int, first: int, last: int, step: int = 1) -> Tensor:
        """A view of columns ``first`` to ``last`` of a row, ``[B, columns, size]``."""
        description = self.program.buffers[buffer]
        columns = slice(first + description.left, last + description.left, step)
        return self.maps[buffer][:, row + description.rows, columns]

    def product(self, step: Instruction, run: Run, row: int, first: int, last: int) -> Tensor:
        """What a run of taps adds to vectors ``first`` to ``last`` of those filled in a row."""
        stride, every = self.program.strides(step)
        begin, end = stride * first + run.column, stride * (last - 1) + run.column + run.taps
        taps = self.window(step.a, row // every * stride + run.row, begin, end)
        taps = taps[..., step.a_offset : step.a_offset + step.size]
        taps = taps.unfold(1, run.taps, stride).transpose(2, 3).flatten(2)  # [B, columns, taps * size]
        matrix = self.weights[run.at : run.at + taps.shape[2] * step.outputs].view(-1, step.outputs)
        return taps @ matrix

    def early(self, step: Instruction, row: int, first: int, last: int) -> Tensor:
        """The bias and all early runs of a convolution."""
        zeros = self.weights.new_zeros(step.outputs)
        bias = self.weights[step.bias : step.bias + step.outputs] if step.bias >= 0 else zeros
        total = bias.expand(len(self.conditions), last - first, step.outputs)
        for run in step.early:
            total = total + self.product(step, run, row, first, last)
        return total

    def elementwise(self, step: Instruction, row: int, first: int, last: int) -> Tensor:
        a = self.window(step.a, row, first, last)[..., step.a_offset : step.a_offset + step.taken]
        b = None
        if step.b >= 0:
            b = self.window(step.b, row, first, last)[..., step.b_offset : step.b_offset + step.taken]
        return combine(step, a, b, self.conditions[:, None])

    def fill(self, step: Instruction, row: int, first: int, last: int, values: Tensor) -> None:
        """Stores vectors ``first`` to ``last`` of those that an instruction fills in a row."""
        _, every = self.program.strides(step)
        at = self.window(step.target, row, every * first + step.column, every * (last - 1) + step.column + 1, every)
        at[..., step.target_offset : step.target_offset + step.outputs] = values


def combine(step: Instruction, a: Tensor, b: Tensor | None, conditions: Tensor) -> Tensor:
    """What an elementwise instruction makes of ``a`` and ``b``, ``[*, taken]``, and of its condition."""
    if b is not None:
        a = a * b if step.kind == MUL else a + b
    if step.condition >= 0:
        a = a + conditions[..., step.condition : step.condition + step.taken]
    if step.kind == GATE:
        return a[..., : step.outputs].tanh() * a[..., step.outputs :].sigmoid()
    if step.kind == GLU:
        return a[..., : step.outputs] * a[..., step.outputs :].sigmoid()
    return a if step.kind in (ADD, MUL) else MAPS[step.kind](a)


# -- heads -------------------------------------------------------------------------------------------------------------


def draw(logits: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """The level whose cumulative probability the uniform number exceeds last; logits ``[B, levels]``."""
    if temperature == 0:
        return logits.argmax(1)
    logits = logits / temperature
    cumulative = (logits - logits.amax(1, keepdim=True)).exp().cumsum(1)
    return (cumulative[:, :-1] < uniform[:, None] * cumulative[:, -1:]).sum(1)


def draw_mixture(params: Tensor, noise: Tensor, levels: int, temperature: float) -> Tensor:
    """Levels ``[B, C]`` of a discretised mixture of logistics, ``[B, 3K or 10K]``, by noise ``[B, 1 + C]``.

    The same function as `genkern.ops.sample_discretized_mixture_logistics`, of values from -1 to 1.
    """
    channels, step = noise.shape[1] - 1, 2 / (levels - 1)
    logits, rest = params.tensor_split([params.shape[1] // (3 if channels == 1 else 10)], dim=1)
    if temperature == 0:
        chosen = logits.argmax(1)
    else:
        cumulative = ((logits - logits.amax(1, keepdim=True)) / temperature).exp().cumsum(1)
        chosen = (cumulative[:, :-1] <= noise[:, :1] * cumulative[:, -1:]).sum(1)
    rest = rest.unflatten(1, (channels, -1, logits.shape[1]))  # mean, log-scale (and coefficient) of every component
    rest = rest.gather(3, chosen[:, None, None, None].expand(-1, *rest.shape[1:3], 1)).squeeze(3)
    drawn: list[Tensor] = []
    for c in range(channels):
        mean, values = rest[:, c, 0], [step * level - 1 for level in drawn]
        if c == 1:
            mean = mean + rest[:, 0, 2].tanh() * values[0]
        if c == 2:
            mean = mean + rest[:, 1, 2].tanh() * values[0] + rest[:, 2, 2].tanh() * values[1]
        if temperature:
            u = noise[:, c + 1]
            mean = mean + temperature * rest[:, c, 1].clamp(min=MIN_LOG_SCALE).exp() * (u.log() - (-u).log1p())
        drawn.append(((mean + 1) / step).clamp(0, levels - 1).round())
    return torch.stack(drawn, 1)


def draw_pixel(program: Program, vectors: Tensor, first: int, noise: Tensor, levels: int, temperature: float) -> Tensor:
    """Levels ``[B, draws]`` of sub-pixel ``first`` (and those after it), from vectors ``[B, size]`` and all noise."""
    at = program.logits_offset + first * program.logits_step
    params = vectors[:, at : at + program.outputs]
    if program.head == MIXTURE:
        return draw_mixture(params, noise, levels, temperature)
    if program.head == QUANTILE:  # of values in [0, 1], less one half
        return ((params + 0.5) * (levels - 1)).round().clamp(0, levels - 1)
    return draw(params[:, :levels], noise[:, first], temperature).unsqueeze(1)


# -- the picture -------------------------------------------------------------------------------------------------------


def causal_sample(
    x: Tensor,
    weights: Tensor,
    conditions: Tensor,
    features: Tensor,
    noise: Tensor,
    free: Tensor,
    code: list[int],
    levels: int,
    temperature: float,
) -> Tensor:
    """Integer pixels ``x`` [B, C, H, W], of which those that are free [H, W] are drawn anew in raster order."""
    program = decode(code)
    height, width = free.shape
    canvas = Canvas(program, weights, conditions, features, free)
    waits, x = program.waits(), x.clone()
    together = program.sub_pixels // program.passes  # sub-pixels that one pass gives
    for i in range(height):
        before: dict[int, Tensor] = {}  # of late convolutions: what they need from above, for the whole row
        now: list[tuple[int, int, Instruction]] = []  # instructions of this row: their row, and which pixels of it
        for number, step in enumerate(program.instructions):
            scale, (_, every) = program.buffers[step.target].scale, program.strides(step)
            row, count = i // scale, width // (scale * every)
            if i % scale or row % every != step.row:
                continue
            if step.kind == CONV:
                values = canvas.early(step, row, 0, count)
            if waits[number]:
                now.append((number, row, step))
                if step.kind == CONV:
                    before[number] = values
                continue
            if step.kind != CONV:
                values = canvas.elementwise(step, row, 0, count)
            canvas.fill(step, row, 0, count, values)
        for j in range(width):
            for first in range(0, program.sub_pixels, together):
                for number, row, step in now:
                    scale, (_, every) = program.buffers[step.target].scale, program.strides(step)
                    if j % scale or j // scale % every != step.column:
                        continue
                    m = j // (scale * every)
                    if step.kind == CONV:
                        values = before[number][:, m : m + 1] + canvas.product(step, step.late, row, m, m + 1)
                    else:
                        values = canvas.elementwise(step, row, m, m + 1)
                    canvas.fill(step, row, m, m + 1, values)
                vector = canvas.window(program.logits, i, j, j + 1)[:, 0]
                for c in range(first, first + together, program.draws()):
                    drawn = draw_pixel(program, vector, c, noise[:, :, i, j], levels, temperature).to(x.dtype)
                    at = slice(c, c + program.draws())
                    x[:, at, i, j] = torch.where(free[i, j], drawn, x[:, at, i, j])
                    pixel = canvas.window(0, i, j, j + 1)[:, 0]
                    pixel[:, at] = x[:, at, i, j].to(weights.dtype) * (2 / (levels - 1)) - 1
                    pixel[:, program.sub_pixels :] = 1
    return x
