"""One step of a diffusion sampler in plain PyTorch: the definition that every kernel is compared with."""

from __future__ import annotations

import torch
from torch import Tensor


def guided(conditional: Tensor, unconditional: Tensor, guidance: float, rescale: float) -> Tensor:
    """Classifier-free guidance; with `rescale`, partly brought back to the spread of the conditional output."""
    output = unconditional + guidance * (conditional - unconditional)
    if rescale == 0:
        return output
    factor = 1 - rescale + rescale * spread_ratio(conditional, output)
    return factor.reshape(-1, *[1] * (output.dim() - 1)) * output


def spread_ratio(conditional: Tensor, output: Tensor) -> Tensor:
    """std(conditional) / std(output) of each sample, [B]; 1 where the output is constant."""
    size = conditional.shape[0], conditional.shape[1:].numel()
    if size[0] == 0 or size[1] < 2:
        return conditional.new_ones(size[0])
    wanted, found = (tensor.reshape(size).var(1) for tensor in (conditional, output))
    spread = found > 0
    return torch.where(spread, wanted / torch.where(spread, found, 1.0), 1.0).sqrt()


def rows_of(coefficients: Tensor, step: Tensor | None, dims: int) -> list[Tensor]:
    """The columns of each sample's row, [1 or B, 1, ...]; NaN where there is no such step."""
    if step is not None:
        valid = (step >= 0) & (step < coefficients.shape[0])
        coefficients = coefficients[step.clamp(0, coefficients.shape[0] - 1)]
        coefficients = coefficients.masked_fill(~valid.unsqueeze(-1), float("nan")).reshape(-1, coefficients.shape[-1])
    return [column.reshape(-1, *[1] * (dims - 1)) for column in coefficients.unbind(-1)]


def times(coefficient: Tensor, value: Tensor) -> Tensor:
    """A product that is 0 where the coefficient is, whatever the value."""
    return coefficient * torch.where(coefficient == 0, 0.0, value)


def diffusion_step(
    x: Tensor,
    model_output: Tensor,
    unconditional: Tensor,
    previous: Tensor,
    log_variance: Tensor,
    coefficients: Tensor,
    threshold: Tensor | None,
    noise: Tensor | None,
    step: Tensor | None,
    guidance: float,
    rescale: float,
    low: float,
    high: float,
    return_x0: bool,
) -> tuple[Tensor, Tensor]:
    """Optional tensors that are not of the shape of `x` are absent."""
    to_x0, output_to_x0, k_x, k_x0, k_output, k_previous, k_noise, log_std, log_std_slope = rows_of(
        coefficients, step, x.dim()
    )
    output = model_output
    if unconditional.shape == x.shape:
        output = guided(model_output, unconditional, guidance, rescale)
    x0 = to_x0 * x + output_to_x0 * output
    if threshold is None:
        x0 = x0.clamp(low, high)
    else:
        s = threshold.to(x.dtype).reshape(-1, *[1] * (x.dim() - 1))
        x0 = torch.maximum(torch.minimum(x0, s), -s) / s
    after = k_x * x + k_x0 * x0 + k_output * output
    if previous.shape == x.shape:
        after = after + times(k_previous, previous)
    if noise is not None:
        if log_variance.shape == x.shape:
            drop = k_noise == 0
            std = k_noise * (log_std + log_std_slope * torch.where(drop, 0.0, log_variance)).exp()
            after = after + torch.where(drop, 0.0, std * noise)
        else:
            after = after + times(k_noise, noise)
    return after, x0 if return_x0 else x.new_empty(0)
