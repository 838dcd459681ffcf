"""Corruption of a batch of images as in AnoDDPM: six octaves, in two dimensions and as slices of three."""

from typing import Any

import torch

from genkern.ops import simplex_noise

from ..registry import FORWARD, Function, Inputs, Rival, Workload, shape_name

ROWS = 4  # of a batch's pictures, drawn by a peer that takes seconds for all of them
OCTAVES, PERSISTENCE, FREQUENCY = 6, 0.8, 64.0


def opensimplex(size: tuple[int, int]) -> Function:
    """The package whose fields these are, one seed and one octave at a time, as AnoDDPM calls it."""
    import numpy
    from opensimplex import OpenSimplex

    x, y = numpy.arange(size[1]), numpy.arange(size[0])

    def run(seeds: torch.Tensor, t: torch.Tensor | None = None) -> torch.Tensor:
        fields = []
        for i, seed in enumerate(seeds.tolist()):
            noise, field = OpenSimplex(seed), numpy.zeros(size)
            for k in range(OCTAVES):
                f = FREQUENCY / 2**k
                if t is None:
                    field += PERSISTENCE**k * noise.noise2array(x / f, y / f)
                else:
                    field += PERSISTENCE**k * noise.noise3array(x / f, y / f, numpy.array([float(t[i]) / f]))[0]
            fields.append(torch.from_numpy(field).float())
        return torch.stack(fields).to(seeds.device)

    return run


def some_rows(shape: tuple[int, int, int]) -> Function:
    draw = opensimplex((ROWS, shape[2]))
    return lambda seeds, *t: draw(seeds[:1], *(coordinate[:1] for coordinate in t))


def workload(shape: tuple[int, int, int], three: bool, **description: Any) -> Workload:
    def make(device: torch.device, dtype: torch.dtype) -> Inputs:
        seeds = torch.arange(shape[0], device=device)
        return (seeds, 10.0 * seeds.double()) if three else (seeds,)

    def run(impl: str) -> Function:
        def apply(seeds: torch.Tensor, t: torch.Tensor | None = None) -> torch.Tensor:
            return simplex_noise(seeds, shape[1:], t=t, impl=impl)

        return apply

    name = f"{'three' if three else 'two'} dimensions {shape_name(shape)}"
    rows = shape[0] * shape[1]
    rivals = {f"opensimplex, {ROWS} of {rows} rows": Rival(lambda: some_rows(shape), same_values=False)}
    if rows <= 16:
        rivals = {"opensimplex": Rival(lambda: opensimplex(shape[1:]))}
    return Workload(name, make, run, modes=(FORWARD,), compiles=(), rivals=rivals, **description)


WORKLOADS = [
    workload((4, 256, 256), three=False, quick=("eager",)),
    workload((4, 256, 256), three=True),
    workload((2, 4, 4), three=False, launch=True),
]
SWEEP = [workload((b, 64, 64), three=False) for b in (1, 4, 16, 64)]
