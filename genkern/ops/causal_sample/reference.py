"""Cached sampling from a stack of causal layers in plain PyTorch: every activation is computed once.

The stack is a *program*: buffers, each a map of vectors over the pixels, and instructions that fill them. What a row
of a buffer needs from the rows above is computed for the whole row at once; what it needs from the row itself, pixel
by pixel as these are drawn, and where a pixel has several passes (R, G, B), for the channels of one at a time.

A program travels as a list of integers, and its weights in one flat tensor:

    passes, sub-pixels, logits buffer, offset of its first logit, logits from one sub-pixel to the next,
    number of buffers, number of instructions,
    buffers:       size of a vector, rows kept, columns of padding on the left, on the right
    instructions:  kind, buffer, parts, groups, width, ...
      CONV         source, offset, size, at[bias], late taps, first column, at[late], number of early runs,
                   runs: row, first column, taps, at[run]
      other kinds  a, its offset, b, its offset, at[condition]

A vector of a buffer holds parts x groups x width numbers: its halves (of a gate), in each the channels of a group (a
sub-pixel), in each its channels, padded with zeros. Positions that are -1 are not there. A run is a number of
neighbouring taps of one row, as a matrix [taps * size, parts * groups * width]. Buffer 0 is the picture, in [-1, 1].
"""

from typing import NamedTuple

import torch
from torch import Tensor

CONV, ADD, MUL, GATE, COPY, RELU, ELU, TANH, SIGMOID = range(9)
MAPS = {RELU: torch.relu, ELU: torch.nn.functional.elu, TANH: torch.tanh, SIGMOID: torch.sigmoid, COPY: torch.clone}


class Buffer(NamedTuple):
    size: int
    rows: int
    left: int
    right: int


class Run(NamedTuple):
    row: int
    column: int
    taps: int
    at: int


class Instruction(NamedTuple):
    kind: int
    target: int
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
    late: Run = Run(0, 0, 0, 0)
    early: tuple[Run, ...] = ()

    @property
    def is_late(self) -> bool:
        """Whether a convolution waits for pixels of its own row."""
        return self.late.taps > 0


class Program(NamedTuple):
    passes: int
    sub_pixels: int
    logits: int
    logits_offset: int
    logits_step: int
    buffers: list[Buffer]
    instructions: list[Instruction]

    def late(self) -> list[bool]:
        """Whether each buffer waits for pixels of its own row."""
        late = [True] + [False] * (len(self.buffers) - 1)
        for step in self.instructions:
            late[step.target] = step.is_late if step.kind == CONV else late[step.a] or (step.b >= 0 and late[step.b])
        return late


def encode(program: Program) -> list[int]:
    code = [*program[:5], len(program.buffers), len(program.instructions)]
    for buffer in program.buffers:
        code += buffer
    for step in program.instructions:
        code += [step.kind, step.target, step.parts, step.groups, step.width, step.a, step.a_offset]
        if step.kind == CONV:
            late = step.late
            code += [step.size, step.bias, late.taps, late.column, late.at, len(step.early)]
            for run in step.early:
                code += run
        else:
            code += [step.b, step.b_offset, step.condition]
    return code


def decode(code: list[int]) -> Program:
    words = iter(code)

    def take(count: int) -> list[int]:
        return [next(words) for _ in range(count)]

    header = take(7)
    buffers = [Buffer(*take(4)) for _ in range(header[5])]
    instructions = []
    for _ in range(header[6]):
        kind, target, parts, groups, width, a, offset = take(7)
        if kind == CONV:
            size, bias, taps, column, at, runs = take(6)
            early, late = tuple(Run(*take(4)) for _ in range(runs)), Run(0, column, taps, at)
            step = Instruction(kind, target, parts, groups, width, a, offset, -1, 0, -1, size, bias, late, early)
        else:
            b, b_offset, condition = take(3)
            step = Instruction(kind, target, parts, groups, width, a, offset, b, b_offset, condition)
        instructions.append(step)
    return Program(header[0], header[1], header[2], header[3], header[4], buffers, instructions)


class Canvas:
    """The buffers of a batch, ``[B, H + rows, W + padding, size]``, and what the instructions do to them."""

    def __init__(self, program: Program, weights: Tensor, conditions: Tensor, height: int, width: int):
        self.program, self.weights, self.conditions = program, weights, conditions
        self.maps = [
            weights.new_zeros(len(conditions), height + b.rows, b.left + width + b.right, b.size)
            for b in program.buffers
        ]

    def window(self, buffer: int, row: int, first: int, last: int) -> Tensor:
        """A view of columns ``first`` to ``last`` of a row, ``[B, columns, size]``."""
        description = self.program.buffers[buffer]
        return self.maps[buffer][:, row + description.rows, first + description.left : last + description.left]

    def product(self, step: Instruction, run: Run, row: int, first: int, last: int) -> Tensor:
        """What a run of taps adds to columns ``first`` to ``last``, ``[B, columns, parts * groups * width]``."""
        begin, end = first + run.column, last + run.column + run.taps - 1
        taps = self.window(step.a, row + run.row, begin, end)[..., step.a_offset : step.a_offset + step.size]
        taps = taps.unfold(1, run.taps, 1).transpose(2, 3).flatten(2)  # [B, columns, taps * size]
        outputs = step.parts * step.groups * step.width
        matrix = self.weights[run.at : run.at + taps.shape[2] * outputs].view(-1, outputs)
        return taps @ matrix

    def early(self, step: Instruction, row: int, first: int, last: int) -> Tensor:
        """The bias and all early runs of a convolution."""
        outputs = step.parts * step.groups * step.width
        bias = self.weights[step.bias : step.bias + outputs] if step.bias >= 0 else self.weights.new_zeros(outputs)
        total = bias.expand(len(self.conditions), last - first, outputs)
        for run in step.early:
            total = total + self.product(step, run, row, first, last)
        return total

    def elementwise(self, step: Instruction, row: int, first: int, last: int) -> Tensor:
        size = step.parts * step.groups * step.width
        taken = 2 * size if step.kind == GATE else size
        a = self.window(step.a, row, first, last)[..., step.a_offset : step.a_offset + taken]
        if step.b >= 0:
            b = self.window(step.b, row, first, last)[..., step.b_offset : step.b_offset + taken]
            a = a * b if step.kind == MUL else a + b
        if step.kind == GATE:
            if step.condition >= 0:
                a = a + self.conditions[:, None, step.condition : step.condition + taken]
            return a[..., :size].tanh() * a[..., size:].sigmoid()
        return a if step.kind in (ADD, MUL) else MAPS[step.kind](a)


def draw(logits: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """The level whose cumulative probability the uniform number exceeds last; logits ``[B, levels]``."""
    if temperature == 0:
        return logits.argmax(1)
    logits = logits / temperature
    cumulative = (logits - logits.amax(1, keepdim=True)).exp().cumsum(1)
    return (cumulative[:, :-1] < uniform[:, None] * cumulative[:, -1:]).sum(1)


def causal_sample(
    x: Tensor,
    weights: Tensor,
    conditions: Tensor,
    noise: Tensor,
    free: Tensor,
    code: list[int],
    levels: int,
    temperature: float,
) -> Tensor:
    """Integer pixels ``x`` [B, C, H, W], of which those that are free [H, W] are drawn anew in raster order."""
    program = decode(code)
    height, width = free.shape
    canvas = Canvas(program, weights, conditions, height, width)
    late, x = program.late(), x.clone()
    together = program.sub_pixels // program.passes  # sub-pixels that one pass gives
    for i in range(height):
        before: dict[int, Tensor] = {}  # of late convolutions: what they need from above, for the whole row
        for number, step in enumerate(program.instructions):
            if step.kind == CONV and late[step.target]:
                before[number] = canvas.early(step, i, 0, width)
            elif not late[step.target]:
                compute = canvas.early if step.kind == CONV else canvas.elementwise
                canvas.window(step.target, i, 0, width).copy_(compute(step, i, 0, width))
        for j in range(width):
            for first in range(0, program.sub_pixels, together):
                for number, step in enumerate(program.instructions):
                    if not late[step.target]:
                        continue
                    if step.kind == CONV:
                        values = before[number][:, j : j + 1] + canvas.product(step, step.late, i, j, j + 1)
                    else:
                        values = canvas.elementwise(step, i, j, j + 1)
                    canvas.window(step.target, i, j, j + 1).copy_(values)
                vector = canvas.window(program.logits, i, j, j + 1)[:, 0]
                for c in range(first, first + together):
                    at = program.logits_offset + c * program.logits_step
                    drawn = draw(vector[:, at : at + levels], noise[:, c, i, j], temperature).to(x.dtype)
                    x[:, c, i, j] = torch.where(free[i, j], drawn, x[:, c, i, j])
                    canvas.window(0, i, j, j + 1)[:, 0, c] = x[:, c, i, j].to(weights.dtype) * (2 / (levels - 1)) - 1
    return x
