"""Batch normalisation as a flow, in RealNVP's pictures and in vectors (MAF)."""

from typing import Any

import torch

from genkern.ops import flow_batch_norm

from ..registry import FORWARD, MODES, Function, Inputs, Workload, seeded, shape_name


def workload(shape: tuple[int, ...], training: bool, inverse: bool = False, **description: Any) -> Workload:
    channels = shape[1:2]

    def make(device: torch.device, dtype: torch.dtype) -> Inputs:
        parameters = 0.1 * seeded(channels, device, dtype), seeded(channels, device, dtype)
        x = 2 * seeded(shape, device, dtype) + 1
        # the statistics are module buffers: no gradient, and updated in place in training
        return x, *parameters

    def run(impl: str) -> Function:
        buffers: dict[torch.dtype, tuple[torch.Tensor, torch.Tensor]] = {}

        def call(x: torch.Tensor, log_scale: torch.Tensor, bias: torch.Tensor):
            if x.dtype not in buffers:
                zeros = torch.zeros(channels, device=x.device, dtype=x.dtype)
                buffers[x.dtype] = zeros, zeros + 1
            mean, variance = buffers[x.dtype]
            return flow_batch_norm(x, log_scale, bias, mean, variance, training=training, inverse=inverse, impl=impl)

        return call

    modes = (FORWARD,) if not training else MODES
    direction = "training" if training else "inverse" if inverse else "evaluation"
    return Workload(f"{direction} {shape_name(shape)}", make, run, modes=modes, **description)


WORKLOADS = [
    workload((64, 48, 16, 16), training=True, quick=("eager",)),
    workload((4096, 64), training=True),
    workload((64, 48, 16, 16), training=False),
    workload((64, 48, 16, 16), training=False, inverse=True),
    workload((4, 8), training=True, launch=True),
]
SWEEP = [workload((b, 48, 16, 16), training=True) for b in (1, 4, 16, 64, 256)]
