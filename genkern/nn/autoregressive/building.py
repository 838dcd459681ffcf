"""Instructions of a program of `genkern.ops.causal_sample`, written one after the other, and their weights."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...ops.causal_sample import reference as program
from .layouts import Layout, Untraceable

HEADS = {"categorical": program.CATEGORICAL, "mixture": program.MIXTURE, "quantile": program.QUANTILE}
Phase = tuple[int, int, list[tuple[int, int]], Tensor]  # row and column of a square of four, taps, their matrices


class Value(NamedTuple):
    """A buffer, or a part of its vectors."""

    buffer: int
    offset: int
    layout: Layout


class Builder:
    """Buffers and instructions so far.

    Args:
        sub_pixels: of the picture.
        ones: whether a plane of ones goes with it.
        features: channels of the map that is given whole; 0: there is none.
    """

    def __init__(self, sub_pixels: int, *, ones: bool = False, features: int = 0):
        self.sub_pixels = sub_pixels
        self.sizes, self.late, self.scales = [sub_pixels + ones], [True], [1]
        self.picture, self.picture_and_ones = (Value(0, 0, Layout(sub_pixels + more)) for more in range(2))
        self.features: Value | None = None
        self.instructions: list[program.Instruction] = []
        self.weights: list[Tensor] = []
        self.length = 0
        if features:
            self.features = Value(self.buffer(features), 0, Layout(features))

    def finish(self, logits: Value, head: str) -> tuple[program.Program, Tensor]:
        """The program whose parameters of the pixels are these, and its weights."""
        passes, layout, sub_pixels = logits.layout.groups, logits.layout, self.sub_pixels
        outputs = layout.channels // sub_pixels
        if head == "mixture":
            parts = 3 if sub_pixels == 1 else 10
            if sub_pixels not in (1, 3) or passes != 1 or layout.channels % parts or layout.parts != 1:
                raise Untraceable(
                    f"sample: of a mixture the network must give {parts}K numbers for a pixel of 1 or 3 channels, in"
                    f" one group; got {layout}."
                )
            outputs = layout.channels
        elif passes not in (1, sub_pixels) or layout.channels % sub_pixels or layout.parts != 1:
            raise Untraceable(f"sample: the network must give {sub_pixels} groups of logits; got {layout}.")
        elif head == "quantile" and outputs != 1:
            raise Untraceable(f"sample: the network must give {sub_pixels} quantiles; got {layout}.")
        if self.scales[logits.buffer] != 1:
            raise Untraceable("sample: the network must give logits for every pixel.")
        step = layout.width if passes > 1 else outputs
        features = -1 if self.features is None else self.features.buffer
        found = program.Program(
            passes, sub_pixels, HEADS[head], logits.buffer, logits.offset, outputs, step, features, self.buffers(),
            self.instructions,
        )  # fmt: skip
        return found, torch.cat(self.weights)

    # -- instructions -------------------------------------------------------------------------------------------

    def conv(
        self, layout: Layout, phases: list[Phase], bias: Tensor | None, x: Value, *, halves: int = 1, doubles: int = 1
    ) -> Value:
        """A convolution; one that halves the resolution, or that doubles it and has a phase for each of four."""
        whole, several = x.layout.size == self.sizes[x.buffer], any(len(offsets) > 1 for _, _, offsets, _ in phases)
        if several and not whole and not self.is_given(x):
            x = self.map(program.COPY, x.layout, x)  # neighbouring taps are read as one vector
        scale = self.scales[x.buffer] * halves // doubles
        if scale < 1:
            raise Untraceable("sample: a layer has a higher resolution than the picture.")
        target, place = self.buffer(layout.size, scale), -1
        if bias is not None:
            vector = bias.detach().new_zeros(layout.size)
            vector[layout.positions()] = bias.detach()
            place = self.append(vector)
        for row, column, offsets, matrices in phases:
            late, early = self.runs(layout, offsets, matrices.detach(), x, self.late[x.buffer] and row == 0)
            self.late[target] |= bool(late)
            self.instructions.append(
                program.Instruction(
                    program.CONV, target, 0, layout.parts, layout.groups, layout.width, x.buffer, x.offset,
                    size=self.taken(x), bias=place, row=row, column=column,
                    late=late[0] if late else program.Run(0, 0, 0, 0), early=tuple(early),
                )
            )  # fmt: skip
        return Value(target, 0, layout)

    def runs(
        self, layout: Layout, offsets: list[tuple[int, int]], matrices: Tensor, x: Value, waits: bool
    ) -> tuple[list[program.Run], list[program.Run]]:
        """Runs of taps that wait for the row itself, and all others."""
        size, rows = self.taken(x), x.layout.positions()
        if self.is_given(x):
            rows = torch.arange(x.layout.channels)
        padded = matrices.new_zeros(len(offsets), size, layout.size)
        padded[:, rows[:, None], layout.positions()] = matrices
        runs: list[program.Run] = []
        for k, (row, column) in enumerate(offsets):
            if runs and runs[-1].row == row and runs[-1].column + runs[-1].taps == column:
                runs[-1] = runs[-1]._replace(taps=runs[-1].taps + 1)
                self.append(padded[k])
            else:
                runs.append(program.Run(row, column, 1, self.append(padded[k])))
        late = [run for run in runs if waits and run.row == 0]
        ahead = any(run.row > 0 or (waits and run.row == 0 and run.column + run.taps > 1) for run in runs)
        if ahead or len(late) > 1:
            raise Untraceable("sample: a convolution sees pixels of its own row to the right, which are not drawn yet.")
        return late, [run for run in runs if run not in late]

    def map(
        self,
        kind: int,
        layout: Layout,
        a: Value,
        b: Value | None = None,
        condition: int = -1,
        into: Value | None = None,
    ) -> Value:
        """An elementwise instruction, into a buffer of its own or a part of another one."""
        if b is not None and a.layout != b.layout:
            raise Untraceable(f"sample: values of layouts {a.layout} and {b.layout} meet.")
        if self.is_given(a) or (b is not None and self.is_given(b)):
            raise Untraceable("sample: the picture must first go through a convolution.")
        if b is not None and self.scales[a.buffer] != self.scales[b.buffer]:
            raise Untraceable("sample: values of two resolutions meet.")
        if into is None:
            into = Value(self.buffer(layout.size, self.scales[a.buffer]), 0, layout)
        self.late[into.buffer] |= self.late[a.buffer] or (b is not None and self.late[b.buffer])
        second = (b.buffer, b.offset) if b is not None else (-1, 0)
        self.instructions.append(
            program.Instruction(
                kind, into.buffer, into.offset, layout.parts, layout.groups, layout.width, a.buffer, a.offset, *second,
                condition,
            )
        )  # fmt: skip
        return into

    def concatenate(self, layout: Layout, pieces: list[tuple[int, Value]]) -> Value:
        """Values one after the other, each through a map of its own."""
        part = layout.of_part(len(pieces))
        whole = Value(self.buffer(layout.size, self.scales[pieces[0][1].buffer]), 0, layout)
        for k, (kind, value) in enumerate(pieces):
            if value.layout != part or self.scales[value.buffer] != self.scales[whole.buffer]:
                raise Untraceable(f"sample: a value of layout {value.layout} cannot be a part of {layout}.")
            self.map(kind, part, value, into=Value(whole.buffer, k * part.size, part))
        return whole

    # -- small matters ------------------------------------------------------------------------------------------

    def is_given(self, x: Value) -> bool:
        """Whether a value is what the network is given, and so is not padded."""
        return x.buffer == 0 or (self.features is not None and x.buffer == self.features.buffer)

    def taken(self, x: Value) -> int:
        return self.sizes[x.buffer] if self.is_given(x) else x.layout.size

    def buffer(self, size: int, scale: int = 1) -> int:
        self.sizes.append(size)
        self.scales.append(scale)
        self.late.append(False)
        return len(self.sizes) - 1

    def append(self, weights: Tensor) -> int:
        self.weights.append(weights.flatten())
        self.length += weights.numel()
        return self.length - weights.numel()

    def buffers(self) -> list[program.Buffer]:
        """Rows that must be kept, and columns of padding, by what reads them."""
        found = [program.Buffer(size, 1, 0, 0, scale) for size, scale in zip(self.sizes, self.scales, strict=True)]
        for step in self.instructions:
            for run in (*step.early, step.late):
                buffer = found[step.a]
                found[step.a] = buffer._replace(
                    rows=max(buffer.rows, 1 - run.row),
                    left=max(buffer.left, -run.column),
                    right=max(buffer.right, run.column + run.taps - 1),
                )
        return found
