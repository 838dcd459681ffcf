"""Log-densities of diagonal Gaussians in plain PyTorch: the definition that every kernel is compared with."""

import math

import torch
from torch import Tensor

HALF_LN_2PI = 0.5 * math.log(2 * math.pi)


def gaussian_log_prob(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    lowest = -math.floor(math.log(torch.finfo(x.dtype).max))  # keeps e^-s finite, for where x = mean
    r = (x - mean) * torch.exp(-log_std.clamp(min=lowest))
    return (-HALF_LN_2PI - log_std - 0.5 * r * r).reshape(x.shape[0], x.shape[1:].numel()).sum(1)


def standard_normal_log_prob(x: Tensor) -> Tensor:
    return (-HALF_LN_2PI - 0.5 * x * x).reshape(x.shape[0], x.shape[1:].numel()).sum(1)
