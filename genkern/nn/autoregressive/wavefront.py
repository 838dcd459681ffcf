"""Sampling along a slanted front: a pixel of every row at a time, each row so far behind the one above that it may."""

from __future__ import annotations

import torch
from torch import Tensor

from ...ops.causal_sample.reference import CONV, GATE, MAPS, MUL, Canvas, Instruction, Program, Run, draw
from .sampling import Progress


def leads(program: Program) -> list[int]:
    """How many columns ahead of the pixel that is drawn each buffer must be computed: what is above needs no pixel."""
    lead = [0] * len(program.buffers)
    for step in reversed(program.instructions):
        for run in (*step.early, step.late) if step.kind == CONV else (Run(0, 0, 1, 0),):
            if run.row == 0 and run.taps:
                for source in (step.a, step.b):
                    if source >= 0:
                        lead[source] = max(lead[source], lead[step.target] + run.column + run.taps - 1)
    return lead


def slant(program: Program) -> int:
    """How many columns a row must lag behind the row above."""
    lead, found = leads(program), 0
    for step in program.instructions:
        for run in step.early:
            if run.row < 0:  # the picture itself is there a step later than what is made of it
                ahead = lead[step.target] + run.column + run.taps - 1 - lead[step.a] + (step.a == 0)
                found = max(found, -(ahead // run.row))
    return found


def steps(program: Program, height: int, width: int) -> int:
    """How many steps the front takes: ``W + slant (H - 1)``, and the lead of the vertical stack."""
    return width + max(leads(program)) + slant(program) * (height - 1)


@torch.no_grad()
def wavefront(
    program: Program,
    weights: Tensor,
    x: Tensor,
    noise: Tensor,
    free: Tensor,
    *,
    levels: int,
    conditions: Tensor | None = None,
    temperature: float = 1.0,
    progress: Progress | None = None,
) -> Tensor:
    """The pixels of `genkern.ops.causal_sample`, in `steps` steps of as many pixels as there are rows, in PyTorch.

    Wavefront or "hyperplane" order of Lamport 1974; of worth where a device computes many pixels as fast as one.
    """
    height, width = free.shape
    conditions = weights.new_zeros(len(x), 0) if conditions is None else conditions
    canvas = Canvas(program, weights, conditions, height, width)
    lead, lag, x = leads(program), slant(program), x.clone()
    late, ahead = program.late(), max(lead)
    together = program.sub_pixels // program.passes
    rows = torch.arange(height, device=x.device)
    total = steps(program, height, width)
    for time in range(total):
        front = time - ahead - lag * rows  # the column of every row
        fronts = {}  # rows and columns that are within the picture, by how far ahead
        for k in sorted(set(lead)):
            inside = (front + k >= 0) & (front + k < width)
            fronts[k] = rows[inside], front[inside] + k
        for step in program.instructions:
            if not late[step.target]:
                _compute(canvas, step, *fronts[lead[step.target]])
        i, j = fronts[0]
        for first in range(0, program.sub_pixels, together) if len(i) else ():
            for step in program.instructions:
                if late[step.target]:
                    _compute(canvas, step, i, j)
            vectors = _taps(canvas, program.logits, i, j, 1)  # [B, front, size]
            for c in range(first, first + together):
                at = program.logits_offset + c * program.logits_step
                logits = vectors[..., at : at + levels].flatten(0, 1)
                drawn = draw(logits, noise[:, c, i, j].flatten(), temperature).view(len(x), len(i)).to(x.dtype)
                x[:, c, i, j] = torch.where(free[i, j], drawn, x[:, c, i, j])
                buffer = program.buffers[0]
                scaled = x[:, c, i, j].to(weights.dtype) * (2 / (levels - 1)) - 1
                canvas.maps[0][:, i + buffer.rows, j + buffer.left, c] = scaled
        if progress is not None:
            progress(time + 1, total)
    return x


def _taps(canvas: Canvas, buffer: int, i: Tensor, j: Tensor, taps: int) -> Tensor:
    """Vectors of neighbouring pixels, one after the other, ``[B, front, taps * size]``."""
    description = canvas.program.buffers[buffer]
    columns = j[:, None] + description.left + torch.arange(taps, device=j.device)
    return canvas.maps[buffer][:, (i + description.rows)[:, None], columns].flatten(2)


def _compute(canvas: Canvas, step: Instruction, i: Tensor, j: Tensor) -> None:
    if len(i) == 0:
        return
    size = step.parts * step.groups * step.width
    if step.kind == CONV:
        values = canvas.weights.new_zeros(size) if step.bias < 0 else canvas.weights[step.bias : step.bias + size]
        for run in (*step.early, step.late):
            if run.taps:
                taps = _taps(canvas, step.a, i + run.row, j + run.column, run.taps)
                if run.taps == 1:
                    taps = taps[..., step.a_offset : step.a_offset + step.size]
                values = values + taps @ canvas.weights[run.at : run.at + taps.shape[2] * size].view(-1, size)
    else:
        taken = 2 * size if step.kind == GATE else size
        values = _taps(canvas, step.a, i, j, 1)[..., step.a_offset : step.a_offset + taken]
        if step.b >= 0:
            other = _taps(canvas, step.b, i, j, 1)[..., step.b_offset : step.b_offset + taken]
            values = values * other if step.kind == MUL else values + other
        if step.kind == GATE:
            if step.condition >= 0:
                values = values + canvas.conditions[:, None, step.condition : step.condition + taken]
            values = values[..., :size].tanh() * values[..., size:].sigmoid()
        elif step.kind in MAPS:
            values = MAPS[step.kind](values)
    buffer = canvas.program.buffers[step.target]
    canvas.maps[step.target][:, i + buffer.rows, j + buffer.left] = values
