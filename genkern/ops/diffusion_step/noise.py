"""The definition together with the noise that it draws, and its derivatives, for which the noise is drawn again."""

from __future__ import annotations

import torch
from torch import Tensor

from ..random.reference import FOLD_IN, MASK, NOISE, box_muller, philox, random_fold_in, rows
from . import reference


def diffusion_step(
    x: Tensor,
    model_output: Tensor,
    unconditional: Tensor,
    previous: Tensor,
    log_variance: Tensor,
    coefficients: Tensor,
    threshold: Tensor | None,
    key: Tensor | None,
    step: Tensor | None,
    guidance: float,
    rescale: float,
    low: float,
    high: float,
    return_x0: bool,
    sample_offset: int,
) -> tuple[Tensor, Tensor]:
    noise = None if key is None else normal(key, step, x.shape, sample_offset).to(x.dtype)
    return reference.diffusion_step(
        x, model_output, unconditional, previous, log_variance, coefficients, threshold, noise, step, guidance,
        rescale, low, high, return_x0,
    )  # fmt: skip


def normal(key: Tensor, step: Tensor | None, shape: torch.Size, sample_offset: int) -> Tensor:
    """Of one key: that of sample `sample_offset + b`. Of a key for each sample: that of sample `sample_offset`."""
    batch, elements = shape[0], shape[1:].numel()
    sample = sample_offset + (torch.arange(batch, device=key.device) if key.dim() == 0 else key.new_zeros(batch))
    if step is not None:
        key, number = torch.broadcast_tensors(key, step)
        key = random_fold_in(key, number, FOLD_IN)
    quad = torch.arange((elements + 3) // 4, device=key.device).unsqueeze(0)
    key, sample, zero = key.reshape(-1, 1), sample.unsqueeze(1), quad.new_zeros(batch, quad.shape[1])
    x, y, z, w = philox(key, zero + quad, zero + NOISE, zero + (sample & MASK), zero + ((sample >> 32) & MASK))
    return rows((*box_muller(x, y), *box_muller(z, w)), elements).reshape(shape)


def diffusion_step_backward(
    grad: Tensor,
    grad_x0: Tensor,
    x: Tensor,
    model_output: Tensor,
    unconditional: Tensor,
    previous: Tensor,
    log_variance: Tensor,
    coefficients: Tensor,
    threshold: Tensor | None,
    key: Tensor | None,
    step: Tensor | None,
    guidance: float,
    rescale: float,
    low: float,
    high: float,
    return_x0: bool,
    sample_offset: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Its vector-Jacobian product, written out; only a learned variance needs the noise."""
    dtype, wide = x.dtype, coefficients.dtype
    like = (x, model_output, unconditional, previous, log_variance)
    grad, x, c, u, v = (tensor.to(wide) for tensor in (grad, x, model_output, unconditional, log_variance))
    to_x0, output_to_x0, k_x, k_x0, k_output, k_previous, k_noise, log_std, log_std_slope = reference.rows_of(
        coefficients, step, x.dim()
    )
    is_guided = u.shape == x.shape
    output = reference.guided(c, u, guidance, rescale) if is_guided else c
    x0 = to_x0 * x + output_to_x0 * output
    of_x0 = k_x0 * grad + (grad_x0.to(wide) if return_x0 else 0)
    if threshold is None:
        of_x0 = torch.where((x0 >= low) & (x0 <= high), of_x0, 0.0)
    else:
        s = threshold.to(wide).reshape(-1, *[1] * (x.dim() - 1))
        of_x0 = torch.where(x0.abs() <= s, of_x0 / s, 0.0)
    of_output = k_output * grad + output_to_x0 * of_x0
    grads = [k_x * grad + to_x0 * of_x0, of_output, u, x.new_empty(0), x.new_empty(0)]
    if is_guided:
        grads[1:3] = _guided_backward(of_output, c, u, guidance, rescale)
    if previous.shape == x.shape:
        grads[3] = k_previous * grad
    if v.shape == x.shape:
        grads[4] = torch.zeros_like(x)
        if key is not None:
            drop = k_noise == 0
            std = k_noise * (log_std + log_std_slope * torch.where(drop, 0.0, v)).exp()
            z = normal(key, step, x.shape, sample_offset)
            grads[4] = torch.where(drop, 0.0, log_std_slope * std * z * grad)
    x_, c_, u_, p_, v_ = (out.to(dtype).expand_as(t).contiguous() for out, t in zip(grads, like, strict=True))
    return x_, c_, u_.clone() if not is_guided else u_, p_, v_


def _guided_backward(grad: Tensor, c: Tensor, u: Tensor, guidance: float, rescale: float) -> list[Tensor]:
    if rescale == 0:
        return [guidance * grad, (1 - guidance) * grad]
    plain = reference.guided(c, u, guidance, 0.0)
    size, shape = (c.shape[0], c.shape[1:].numel()), (c.shape[0], *[1] * (c.dim() - 1))
    ratio = reference.spread_ratio(c, plain).reshape(shape)
    of_ratio = rescale * (grad * plain).reshape(size).sum(1).reshape(shape) * ratio
    of_plain = (1 - rescale + rescale * ratio) * grad - of_ratio * _of_log_std(plain)
    return [guidance * of_plain + of_ratio * _of_log_std(c), (1 - guidance) * of_plain]


def _of_log_std(x: Tensor) -> Tensor:
    """The gradient of the logarithm of each sample's standard deviation; 0 where that is 0."""
    size = x.shape[0], x.shape[1:].numel()
    if size[0] == 0 or size[1] < 2:
        return torch.zeros_like(x)
    centred = x.reshape(size) - x.reshape(size).mean(1, keepdim=True)
    total = centred.square().sum(1, keepdim=True)
    return torch.where(total > 0, centred / torch.where(total > 0, total, 1.0), 0.0).reshape(x.shape)
