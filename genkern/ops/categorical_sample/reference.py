"""Draws from categoricals in plain PyTorch: the definition that every kernel is compared with."""

from __future__ import annotations

from torch import Tensor


def categorical_sample(logits: Tensor, noise: Tensor, temperature: float, top_k: int) -> tuple[Tensor, Tensor]:
    """Classes [O, I] of logits [O, V, I] and noise [O, I]; the first of equals comes first."""
    order = logits.sort(dim=1, descending=True, stable=True).indices
    if temperature == 0:
        index = order[:, :1]
    else:
        weights = ((logits - logits.amax(1, keepdim=True)) / temperature).exp()
        if top_k:
            weights = weights.masked_fill(order.argsort(1) >= top_k, 0)
        cumulative = weights.cumsum(1)
        total = cumulative[:, -1:]
        # the first class whose cumulative weight exceeds u * total; one of positive weight, however that rounds
        index = ((cumulative <= noise.unsqueeze(1) * total) & (cumulative < total)).sum(1, keepdim=True)
    log_prob = logits.gather(1, index) - logits.logsumexp(1, keepdim=True)
    return index.squeeze(1), log_prob.squeeze(1)
