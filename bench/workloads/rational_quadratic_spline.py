"""32 768 splines of 8 bins: one layer of NSF on vectors (autoregressive), and a coupling of pictures."""

from typing import Any

import torch
from torch import Tensor

from genkern.ops import rational_quadratic_spline, spline_parameters

from ..registry import FORWARD, MODES, Function, Inputs, Rival, Workload, seeded, shape_name

VECTORS, PICTURES, TINY = (512, 64), (64, 16, 8, 8), (4, 8)
BINS, BOUND = 8, 3.0
Outputs = tuple[Tensor, Tensor]


def parts(params: Tensor) -> tuple[Tensor, ...]:
    """Raw widths, heights and slopes, ``[B, D, K or K - 1]``, of ``parameters_last``."""
    return params.unflatten(1, (-1, spline_parameters(BINS))).split([BINS, BINS, BINS - 1], dim=2)


def nflows() -> Function:
    from nflows.transforms.splines.rational_quadratic import unconstrained_rational_quadratic_spline

    def run(x: Tensor, params: Tensor) -> Outputs:
        y, log_slope = unconstrained_rational_quadratic_spline(x, *parts(params), tail_bound=BOUND)
        return y, log_slope.sum(1)

    return run


def zuko() -> Function:
    from zuko.transforms import MonotonicRQSTransform

    def run(x: Tensor, params: Tensor) -> Outputs:
        y, log_slope = MonotonicRQSTransform(*parts(params), bound=BOUND).call_and_ladj(x)
        return y, log_slope.sum(1)

    return run


# zuko means the same by other raw numbers (it squashes them first)
RIVALS = {"nflows": Rival(nflows), "zuko": Rival(zuko, same_values=False)}


def spline(shape: tuple[int, ...], active: int, layout: str, inverse: bool = False, **description: Any) -> Workload:
    def make(device: torch.device, dtype: torch.dtype) -> Inputs:
        params = (shape[0], active * spline_parameters(BINS), *shape[2:])
        return seeded(shape, device, dtype), seeded(params, device, dtype)

    def run(impl: str) -> Function:
        options: dict[str, Any] = {"bins": BINS, "bound": BOUND, "layout": layout, "unit_slope": False}
        return lambda x, params: rational_quadratic_spline(x, params, inverse=inverse, impl=impl, **options)

    kind = "" if active == shape[1] else f"coupling of {active} in "
    name = f"{'inverse ' if inverse else ''}{kind}{shape_name(shape)} {layout.removeprefix('parameters_')}"
    modes = (FORWARD,) if inverse else MODES
    return Workload(name, make, run, modes=modes, **description)


WORKLOADS = [
    spline(VECTORS, 64, "parameters_last", rivals=RIVALS, quick=("eager", "compile", "nflows", "zuko")),
    spline(VECTORS, 64, "parameters_first"),
    spline(VECTORS, 64, "parameters_first", inverse=True),
    spline(PICTURES, 8, "parameters_first"),
    spline(TINY, 4, "parameters_first", launch=True),
]
SWEEP = [spline((b, 64), 64, "parameters_first") for b in (8, 64, 512, 4096)]
