"""Rational-quadratic splines in plain PyTorch: the definition that every kernel is compared with."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad, softmax, softplus

SLOPES_LESS_BINS = {"linear": -1, "circular": 0, "none": 1}  # how many slopes are parameters


def rational_quadratic_spline(
    x: Tensor,
    params: Tensor,
    mask: Tensor | None,
    bins: int,
    bound: float,
    tails: str,
    layout: str,
    flip: bool,
    min_bin: float,
    min_slope: float,
    offset: float,
    inverse: bool,
) -> tuple[Tensor, Tensor]:
    sizes = [bins, bins, bins + SLOPES_LESS_BINS[tails]]
    active = params.shape[1] // sum(sizes)
    if layout == "parameters_last":
        params = params.unflatten(1, (active, sum(sizes))).transpose(1, 2)
    else:
        params = params.unflatten(1, (sum(sizes), active))
    raw_widths, raw_heights, raw_slopes = params.split(sizes, dim=1)  # each [B, P, C_b, *]
    passive, transformed = (x[:, active:], x[:, :active]) if flip else (x[:, :-active], x[:, -active:])

    widths = min_bin + (1 - bins * min_bin) * softmax(raw_widths, 1)  # shares of the interval [-bound, bound]
    heights = min_bin + (1 - bins * min_bin) * softmax(raw_heights, 1)
    slopes = min_slope + softplus(raw_slopes + offset)
    if tails == "linear":
        ones = torch.ones_like(slopes[:, :1]) if bins > 1 else torch.ones_like(widths)
        slopes = torch.cat([ones, slopes, ones], 1)
    elif tails == "circular":
        slopes = torch.cat([slopes, slopes[:, :1]], 1)

    inside = (transformed >= -bound) & (transformed <= bound)
    if mask is not None:
        inside = inside & ~mask.bool()
    position = (torch.where(inside, transformed, 0.0) + bound) / (2 * bound)  # in [0, 1]
    position, log_slope = spline(position, widths, heights, slopes, inverse)
    transformed = torch.where(inside, bound * (2 * position - 1), transformed)
    y = torch.cat([transformed, passive] if flip else [passive, transformed], dim=1)
    return y, torch.where(inside, log_slope, 0.0).flatten(1).sum(1)


def spline(x: Tensor, widths: Tensor, heights: Tensor, slopes: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
    """The spline of [0, 1] and the logarithm of its slope; widths and heights are [B, K, *], slopes [B, K + 1, *]."""
    x_left, y_left = (pad(shares.cumsum(1)[:, :-1], (0, 0) * (x.dim() - 1) + (1, 0)) for shares in (widths, heights))
    bins = torch.arange(widths.shape[1], device=x.device).view(-1, *[1] * (x.dim() - 1))
    k = (x.unsqueeze(1) >= (y_left if inverse else x_left)[:, 1:]).sum(1, keepdim=True)

    def at_bin(values: Tensor) -> Tensor:
        return torch.where(bins == k, values, 0.0).sum(1)

    x_k, w, y_k, h = (at_bin(values) for values in (x_left, widths, y_left, heights))
    a, b = (at_bin(values) * w / h for values in (slopes[:, :-1], slopes[:, 1:]))  # in units of the mean slope h / w
    if inverse:
        v = (x - y_k) / h
        c = a * (1 - v) - b * v  # (1 - v) r^2 + c r - v = 0 for r = t / (1 - t)
        root = torch.sqrt(c * c + 4 * v * (1 - v))
        t = torch.where(c > 0, 2 * v / (2 * v + c + root), (root - c) / (root - c + 2 * (1 - v)))
    else:
        t = (x - x_k) / w
    u = 1 - t
    denominator = t * t + u * u + (a + b) * t * u
    log_slope = torch.log(h / w * (b * t * t + 2 * t * u + a * u * u) / denominator**2)
    if inverse:
        return x_k + w * t, -log_slope
    return y_k + h * (t * t + a * t * u) / denominator, log_slope
