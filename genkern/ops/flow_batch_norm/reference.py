"""Flow batch normalisation in plain PyTorch: the definition that every kernel is compared with."""

from __future__ import annotations

import torch
from torch import Tensor


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel of [B, C, *], in two passes; zeros for an empty tensor."""
    dims = [d for d in range(x.dim()) if d != 1]
    count = max(x.numel() // max(x.shape[1], 1), 1)
    mean = x.sum(dims, keepdim=True) / count
    variance = (x - mean).square().sum(dims) / count
    return mean.flatten(), variance


def flow_batch_norm(
    x: Tensor, log_scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """y = e^s (x - mean) / sqrt(variance + eps) + b.

    ``mean`` and ``variance`` are `statistics` of x, for kernels to read; here they come anew from x, so that the
    derivative goes through them.
    """
    shape = (-1, *(1 for _ in x.shape[2:]))
    mean, variance = statistics(x)
    half = torch.exp(log_scale / 2).reshape(shape)  # twice: e^100 alone is infinite in float32
    y = (x - mean.reshape(shape)) * torch.rsqrt(variance + eps).reshape(shape) * half * half + bias.reshape(shape)
    log_det = x.shape[2:].numel() * (log_scale - torch.log(variance + eps) / 2).sum()
    return y, log_det.repeat(x.shape[0])
