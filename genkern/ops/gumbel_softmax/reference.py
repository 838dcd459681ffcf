"""Relaxed categorical draws in plain PyTorch: the definition that every kernel is compared with."""

import torch
from torch import Tensor


def gumbel_softmax(logits: Tensor, uniform: Tensor, temperature: float, hard: bool) -> Tensor:
    """Of logits [samples, panels, classes, inner] and noise like them; hard ones have the derivative of the soft."""
    perturbed = (logits - torch.log(-torch.log(uniform))) / temperature
    soft = perturbed.softmax(2)
    if not hard:
        return soft
    one_hot = torch.zeros_like(soft).scatter(2, perturbed.argmax(2, keepdim=True), 1.0)
    return one_hot + (soft - soft.detach())  # exactly zero, with a derivative
