"""Weights of Glow's 1x1 convolutions, with the activation normalisation before each folded in."""

from typing import Any

import torch
from torch import Tensor

from genkern.ops import folded_plu_weight, plu_factors

from ..registry import Function, Inputs, Workload


def weight(channels: int, **description: Any) -> Workload:
    def make(device: torch.device, dtype: torch.dtype) -> Inputs:
        p, *factors = plu_factors(torch.linalg.qr(torch.randn(channels, channels, dtype=torch.float64)).Q)
        given = [*factors, 0.1 * torch.randn(channels), torch.randn(channels)]
        return p.to(device), *(value.to(device, dtype) for value in given)

    def run(impl: str) -> Function:
        def fold(p: Tensor, lower: Tensor, upper: Tensor, log_s: Tensor, sign_s: Tensor, *norm: Tensor):
            return folded_plu_weight(p, lower, upper, log_s, sign_s.detach(), *norm, impl=impl)

        return fold

    return Workload(f"after actnorm {channels}x{channels}", make, run, **description)


WORKLOADS = [weight(12), weight(48, quick=("eager", "compile")), weight(5, launch=True)]
SWEEP = [weight(c) for c in (6, 12, 24, 48, 96)]
