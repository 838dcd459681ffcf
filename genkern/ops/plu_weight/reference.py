"""The weight of a 1x1 convolution from its LU factors, with an activation normalisation folded in: the definition."""

from __future__ import annotations

import torch
from torch import Tensor


def plu_weight(
    p: Tensor, lower: Tensor, upper: Tensor, log_s: Tensor, sign_s: Tensor, log_scale: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    identity = torch.eye(len(lower), dtype=lower.dtype, device=lower.device)
    with torch.autocast(lower.device.type, enabled=False):
        weight = ((lower.tril(-1) + identity) @ (upper.triu(1) + torch.diag(sign_s * log_s.exp())))[p]
    return weight * log_scale.exp(), (weight * bias).sum(1), log_s.sum() + log_scale.sum()
