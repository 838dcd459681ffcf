"""One step of Langevin dynamics in plain PyTorch: the definition that every kernel is compared with."""

from __future__ import annotations

from torch import Tensor


def langevin_step(
    x: Tensor,
    grad: Tensor,
    noise: Tensor,
    step: Tensor | float,
    scale: Tensor | float,
    clamp_grad: float | None,
    low: float | None,
    high: float | None,
    noise_first: bool,
) -> Tensor:
    """x + step grad + scale noise, within [low, high]; `noise_first`: the noise, that of the next step, is outside."""
    drift = grad if clamp_grad is None else grad.clamp(-clamp_grad, clamp_grad)
    moved = x + per_sample(step, x) * drift
    shaken = per_sample(scale, x) * noise
    if noise_first:
        return clamp(moved, low, high) + shaken
    return clamp(moved + shaken, low, high)


def clamp(x: Tensor, low: float | None, high: float | None) -> Tensor:
    return x if low is None and high is None else x.clamp(low, high)


def per_sample(value: Tensor | float, x: Tensor) -> Tensor | float:
    """[B] as [B, 1, ...]; numbers and [] as they are."""
    return value.reshape(-1, *(1,) * (x.dim() - 1)) if isinstance(value, Tensor) and value.dim() == 1 else value


def langevin_norms(grad: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Euclidean norms of every sample's score and noise, [B]."""
    samples, elements = grad.shape[0], grad.shape[1:].numel()
    return grad.reshape(samples, elements).norm(dim=1), noise.reshape(samples, elements).norm(dim=1)
