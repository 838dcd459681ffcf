"""The forward process of diffusion in plain PyTorch: the definition that every kernel is compared with."""

from torch import Tensor


def per_sample(coefficient: Tensor, like: Tensor) -> Tensor:
    """[B] as [B, 1, ..., 1]."""
    return coefficient.reshape(coefficient.shape[:1] + (1,) * (like.dim() - 1))


def q_sample(x0: Tensor, alpha: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
    return per_sample(alpha, x0) * x0 + per_sample(sigma, x0) * noise
