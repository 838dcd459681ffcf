"""Divergence of two diagonal Gaussians in plain PyTorch: the definition that every kernel is compared with."""

import torch
from torch import Tensor

BOUND = 80.0  # of log-variances within exponentials, so that nothing overflows beside a zero


def gaussian_kl(mean: Tensor, logvar: Tensor, prior_mean: Tensor, prior_logvar: Tensor) -> Tensor:
    d = logvar - prior_logvar
    error = mean - prior_mean
    kl = torch.expm1(d.clamp(max=BOUND)) - d + error * error * torch.exp(-prior_logvar.clamp(min=-BOUND))
    return 0.5 * kl.reshape(mean.shape[0], mean.shape[1:].numel()).sum(1)
