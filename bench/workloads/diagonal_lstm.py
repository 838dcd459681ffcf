"""The recurrences of PixelRNN: for digits of 8x8, for MNIST with the 16 units of the paper, and for wide states."""

from typing import Any

import torch

from genkern.ops import diagonal_lstm, row_lstm

from ..registry import FORWARD, Function, Inputs, Workload, seeded, shape_name


def workload(shape: tuple[int, ...], rows: bool = False, **description: Any) -> Workload:
    gates, taps = shape[1], 3 if rows else 2

    def make(device: torch.device, dtype: torch.dtype) -> Inputs:
        x = seeded(shape, device, dtype).contiguous(memory_format=torch.channels_last)
        return x, seeded((gates, gates // 4, taps), device, dtype) / gates**0.5

    def run(impl: str) -> Function:
        function = row_lstm if rows else diagonal_lstm
        return lambda x, weight: function(x, weight, impl=impl)

    flops = 2 * taps * gates * gates // 4 * shape[0] * shape[2] * shape[3]
    return Workload(f"{'rows' if rows else 'diagonal'} {shape_name(shape)}", make, run, flops=flops, **description)


WORKLOADS = [
    workload((64, 96, 8, 8), quick=("eager",)),
    workload((64, 96, 8, 8), rows=True),
    workload((16, 64, 28, 28), modes=(FORWARD,)),  # torch.compile unrolls 55 steps: minutes for the backward pass
    workload((8, 256, 8, 8)),
    workload((4, 16, 4, 4), launch=True),
]
SWEEP = [workload((16, 64, s, s), modes=(FORWARD,)) for s in (4, 8, 16, 32)]
