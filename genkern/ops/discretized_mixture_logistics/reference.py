"""Discretised mixtures of logistics in plain PyTorch: the definition that every kernel is compared with."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid, softplus


def channels_of(x: Tensor) -> int:
    return x.shape[1]


def unpack(params: Tensor, channels: int) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Logits [B, K, *]; means and log-scales [B, C, K, *]; coefficients [B, 3, K, *] of R on G, R on B, G on B."""
    parts = 1 + 2 * channels + (3 if channels == 3 else 0)
    k = params.shape[1] // parts
    logits, rest = params[:, :k], params[:, k:]
    rest = rest.reshape(params.shape[0], channels, rest.shape[1] // channels, *params.shape[2:])
    coefficients = rest[:, :, 2 * k :].tanh() if channels == 3 else None
    return logits, rest[:, :, :k], rest[:, :, k : 2 * k], coefficients


def conditional_means(means: Tensor, coefficients: Tensor | None, values: Tensor) -> Tensor:
    """Means of each channel given the values [B, C, *] of those before it."""
    if coefficients is None:
        return means
    red, green = values[:, 0:1], values[:, 1:2]
    return torch.stack(
        [
            means[:, 0],
            means[:, 1] + coefficients[:, 0] * red,
            means[:, 2] + coefficients[:, 1] * red + coefficients[:, 2] * green,
        ],
        dim=1,
    )


def discretized_mixture_logistics(
    params: Tensor, x: Tensor, levels: int, low: float, high: float, open_edges: bool, min_log_scale: float
) -> Tensor:
    step = (high - low) / (levels - 1)
    values = low + step * x.to(params.dtype)
    logits, means, log_scales, coefficients = unpack(params, channels_of(x))
    log_scales = log_scales.clamp(min=min_log_scale)
    inverse = (-log_scales).exp()
    centred = values.unsqueeze(2) - conditional_means(means, coefficients, values)  # [B, C, K, *]
    plus, minus = inverse * (centred + step / 2), inverse * (centred - step / 2)
    width = (step * inverse).clamp(min=1e-10)  # plus - minus, whatever x
    # log(sigma(p) - sigma(m)) = log sigma(p) + log sigma(-m) + log(1 - e^-(p - m)): nothing cancels
    log_width = (-torch.expm1(-width) / width).log() + (math.log(step) - log_scales)
    below, above = logsigmoid(plus), logsigmoid(-minus)
    log_p = below + above + log_width
    if open_edges:
        level = x.unsqueeze(2)
        log_p = torch.where(level <= 0, below, torch.where(level >= levels - 1, above, log_p))
    return -(log_softmax(logits, dim=1) + log_p.sum(1)).logsumexp(1)


def paper_form(
    params: Tensor, x: Tensor, levels: int, low: float, high: float, open_edges: bool, min_log_scale: float
) -> Tensor:
    """As published with PixelCNN++: a difference of sigmoids, and the density where that is small."""
    step = (high - low) / (levels - 1)
    values = low + step * x.to(params.dtype)
    logits, means, log_scales, coefficients = unpack(params, channels_of(x))
    log_scales = log_scales.clamp(min=min_log_scale)
    inverse = (-log_scales).exp()
    centred = values.unsqueeze(2) - conditional_means(means, coefficients, values)
    plus, minus, middle = inverse * (centred + step / 2), inverse * (centred - step / 2), inverse * centred
    difference = plus.sigmoid() - minus.sigmoid()
    log_density = middle - log_scales - 2 * softplus(middle) + math.log(step)
    log_p = torch.where(difference > 1e-5, difference.clamp(min=1e-12).log(), log_density)
    if open_edges:
        level = x.unsqueeze(2)
        below, above = plus - softplus(plus), -softplus(minus)
        log_p = torch.where(level <= 0, below, torch.where(level >= levels - 1, above, log_p))
    return -(log_softmax(logits, dim=1) + log_p.sum(1)).logsumexp(1)


def discretized_mixture_logistics_sample(
    params: Tensor,
    noise: Tensor,
    levels: int,
    low: float,
    high: float,
    min_log_scale: float,
    temperature: float,
    dtype: torch.dtype,
) -> Tensor:
    """One uniform number chooses the component, one for each channel the value; a level conditions the next channel."""
    step, channels = (high - low) / (levels - 1), noise.shape[1] - 1
    logits, means, log_scales, coefficients = unpack(params, channels)
    if temperature == 0:
        chosen = logits.argmax(1, keepdim=True)
    else:
        weights = ((logits - logits.amax(1, keepdim=True)) / temperature).exp().cumsum(1)
        chosen = (weights[:, :-1] <= noise[:, :1] * weights[:, -1:]).sum(1, keepdim=True)  # [B, 1, *]
    index = chosen.unsqueeze(1)

    def pick(values: Tensor) -> Tensor:
        return values.gather(2, index.expand(-1, values.shape[1], *index.shape[2:])).squeeze(2)

    means, scales = pick(means), pick(log_scales).clamp(min=min_log_scale).exp()
    coefficients = None if coefficients is None else pick(coefficients)
    drawn: list[Tensor] = []
    for c in range(channels):
        mean = means[:, c]
        if coefficients is not None and c == 1:
            mean = mean + coefficients[:, 0] * (low + step * drawn[0])
        if coefficients is not None and c == 2:
            mean = mean + coefficients[:, 1] * (low + step * drawn[0]) + coefficients[:, 2] * (low + step * drawn[1])
        u = noise[:, c + 1]
        value = mean + temperature * scales[:, c] * (u.log() - (-u).log1p()) if temperature else mean
        drawn.append(((value - low) / step).clamp(0, levels - 1).round())
    return torch.stack(drawn, dim=1).to(dtype)
