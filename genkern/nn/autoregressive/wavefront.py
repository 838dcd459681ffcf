"""Sampling along a slanted front: a pixel of every row at a time, each row so far behind the one above that it may."""

from __future__ import annotations

import torch
from torch import Tensor

from ...ops.causal_sample.reference import CONV, Canvas, Instruction, Program, Run, combine, draw_pixel
from .sampling import Progress


def _ahead(program: Program, step: Instruction, source: int, run: Run) -> tuple[int, int]:
    """Rows and columns of the picture from what a run of taps reads last to what it is read for."""
    from_, to = program.buffers[source].scale, program.buffers[step.target].scale
    return to * step.row - from_ * run.row, from_ * (run.column + run.taps - 1) - to * step.column


def _reads(step: Instruction) -> list[tuple[int, Run]]:
    """Sources of an instruction, and what it reads of them."""
    if step.kind == CONV:
        return [(step.a, run) for run in (*step.early, step.late) if run.taps]
    return [(source, Run(0, 0, 1, 0)) for source in (step.a, step.b) if source >= 0]


def leads(program: Program) -> list[int]:
    """How many columns ahead of the pixel that is drawn each buffer must be computed: what is above needs no pixel."""
    lead = [0] * len(program.buffers)
    for step in reversed(program.instructions):
        for source, run in _reads(step):
            rows, columns = _ahead(program, step, source, run)
            if rows == 0 and source != program.features:
                lead[source] = max(lead[source], lead[step.target] + columns)
    return lead


def slant(program: Program) -> int:
    """How many columns a row must lag behind the row above."""
    lead, found = leads(program), 0
    for step in program.instructions:
        for source, run in _reads(step):
            rows, columns = _ahead(program, step, source, run)
            if rows > 0 and source != program.features:  # the picture is there a step later than what is made of it
                ahead = lead[step.target] + columns - lead[source] + (source == 0)
                found = max(found, -(ahead // -rows))
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
    features: Tensor | None = None,
    temperature: float = 1.0,
    progress: Progress | None = None,
) -> Tensor:
    """The pixels of `genkern.ops.causal_sample`, in `steps` steps of as many pixels as there are rows, in PyTorch.

    Wavefront or "hyperplane" order of Lamport 1974; of worth where a device computes many pixels as fast as one.
    """
    height, width = free.shape
    conditions = weights.new_zeros(len(x), 0) if conditions is None else conditions
    features = weights.new_zeros(len(x), height, width, 0) if features is None else features
    canvas = Canvas(program, weights, conditions, features, free)
    lead, lag, x = leads(program), slant(program), x.clone()
    late, ahead = program.late(), max(lead)
    together = program.sub_pixels // program.passes
    rows = torch.arange(height, device=x.device)
    total = steps(program, height, width)
    for time in range(total):
        front = time - ahead - lag * rows  # the column of every row
        fronts = {}  # rows and columns that are within the picture, by how far ahead
        for k in sorted({0, *lead}):
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
            vectors = _taps(canvas, program.logits, i, j, 1).flatten(0, 1)  # [B * front, size]
            for c in range(first, first + together, program.draws()):
                at = torch.arange(c, c + program.draws(), device=x.device)[:, None]
                uniform = noise[:, :, i, j].transpose(1, 2).flatten(0, 1)
                drawn = draw_pixel(program, vectors, c, uniform, levels, temperature)
                drawn = drawn.view(len(x), len(i), -1).transpose(1, 2).to(x.dtype)  # [B, draws, front]
                x[:, at, i, j] = torch.where(free[i, j], drawn, x[:, at, i, j])
                buffer = program.buffers[0]
                scaled = x[:, at, i, j].to(weights.dtype) * (2 / (levels - 1)) - 1
                canvas.maps[0][:, i + buffer.rows, j + buffer.left, at] = scaled
                canvas.maps[0][:, i + buffer.rows, j + buffer.left, program.sub_pixels :] = 1
        if progress is not None:
            progress(time + 1, total)
    return x


def _taps(canvas: Canvas, buffer: int, i: Tensor, j: Tensor, taps: int) -> Tensor:
    """Vectors of neighbouring pixels, one after the other, ``[B, front, taps * size]``."""
    description = canvas.program.buffers[buffer]
    columns = j[:, None] + description.left + torch.arange(taps, device=j.device)
    return canvas.maps[buffer][:, (i + description.rows)[:, None], columns].flatten(2)


def _compute(canvas: Canvas, step: Instruction, i: Tensor, j: Tensor) -> None:
    """An instruction at all pixels of a front of which it fills a vector."""
    source, target = canvas.program.buffers[step.a], canvas.program.buffers[step.target]
    if target.scale > 1 or source.scale > 1:
        _, every = canvas.program.strides(step)
        whole = (i % target.scale == 0) & (j % target.scale == 0)
        whole &= (i // target.scale % every == step.row) & (j // target.scale % every == step.column)
        i, j = i[whole], j[whole]
    if len(i) == 0:
        return
    row, column = i // source.scale, j // source.scale
    if step.kind == CONV:
        zeros = canvas.weights.new_zeros(step.outputs)
        values = zeros if step.bias < 0 else canvas.weights[step.bias : step.bias + step.outputs]
        for run in (*step.early, step.late):
            if run.taps:
                taps = _taps(canvas, step.a, row + run.row, column + run.column, run.taps)
                if run.taps == 1:
                    taps = taps[..., step.a_offset : step.a_offset + step.size]
                matrix = canvas.weights[run.at : run.at + taps.shape[2] * step.outputs].view(-1, step.outputs)
                values = values + taps @ matrix
    else:
        a, b = _taps(canvas, step.a, row, column, 1)[..., step.a_offset : step.a_offset + step.taken], None
        if step.b >= 0:
            b = _taps(canvas, step.b, row, column, 1)[..., step.b_offset : step.b_offset + step.taken]
        values = combine(step, a, b, canvas.conditions[:, None])
    filled = canvas.maps[step.target][..., step.target_offset : step.target_offset + step.outputs]
    filled[:, i // target.scale + target.rows, j // target.scale + target.left] = values
