"""The loss of a denoising network in plain PyTorch: the definition that every kernel is compared with."""

from torch import Tensor


def diffusion_loss(output: Tensor, x0: Tensor, of_x0: Tensor, of_noise: Tensor, noise: Tensor) -> Tensor:
    """Mean squares of each sample, for the target of_x0 * x0 + of_noise * noise."""
    rows = [tensor.reshape(output.shape[0], output.shape[1:].numel()) for tensor in (output, x0, noise)]
    prediction, clean, noise = rows
    residual = prediction - (of_x0[:, None] * clean + of_noise[:, None] * noise)
    return residual.square().sum(1) / max(prediction.shape[1], 1)
