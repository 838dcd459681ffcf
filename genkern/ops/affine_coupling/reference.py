"""Affine coupling in plain PyTorch: the definition that every kernel is compared with."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def log_scale_of(raw: Tensor, scale: str, bound: float) -> Tensor:
    if scale == "exp":
        return raw
    if scale == "tanh":
        return bound * torch.tanh(raw / bound)
    return logsigmoid(raw + 2.0)


def raw_scale_and_shift(params: Tensor, layout: str) -> tuple[Tensor, Tensor]:
    if layout == "interleaved":
        return params[:, 1::2], params[:, 0::2]
    first, second = params.chunk(2, dim=1)
    return (first, second) if layout == "scale_shift" else (second, first)


def affine_coupling(
    x: Tensor,
    params: Tensor,
    mask: Tensor | None,
    scale: str,
    bound: float,
    layout: str,
    flip: bool,
    inverse: bool,
) -> tuple[Tensor, Tensor]:
    if scale == "none":
        log_scale, shift = torch.zeros_like(params), params
    else:
        raw_scale, shift = raw_scale_and_shift(params, layout)
        log_scale = log_scale_of(raw_scale, scale, bound)
    if mask is not None:
        passes = mask.bool()
        log_scale, shift = log_scale.masked_fill(passes, 0), shift.masked_fill(passes, 0)

    active = shift.shape[1]
    passive, transformed = (x[:, active:], x[:, :active]) if flip else (x[:, :-active], x[:, -active:])
    if inverse:
        log_scale = -log_scale
        transformed = (transformed - shift) * log_scale.exp()
    else:
        transformed = transformed * log_scale.exp() + shift
    y = torch.cat([transformed, passive] if flip else [passive, transformed], dim=1)
    return y, log_scale.flatten(1).sum(1)
