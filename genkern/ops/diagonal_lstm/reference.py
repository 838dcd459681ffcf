"""Diagonal and row LSTM in plain PyTorch: the definition that every kernel is compared with."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv1d, pad


def skew(x: Tensor) -> Tensor:
    """``[B, H, W, C]`` to ``[B, H, H + W - 1, C]``: row i moves i columns to the right, so that diagonals stand up."""
    height, width = x.shape[1:3]
    flat = pad(x, (0, 0, 0, height)).flatten(1, 2)  # rows of width W + H, which read as rows of W + H - 1 are skewed
    return flat[:, : height * (height + width - 1)].unflatten(1, (height, height + width - 1))


def unskew(x: Tensor) -> Tensor:
    """The inverse of `skew`."""
    height, length = x.shape[1:3]
    flat = pad(x.flatten(1, 2), (0, 0, 0, height))
    return flat.unflatten(1, (height, length + 1))[:, :, : length + 1 - height]


def lstm_over_columns(x: Tensor, weight: Tensor, before: int) -> Tensor:
    """An LSTM whose state is a column ``[B, N, h]``, and whose state-to-state map is a convolution along it."""
    batch, size, _, _ = x.shape
    after = weight.shape[2] - 1 - before
    h = c = x.new_zeros(batch, size, weight.shape[1])
    states = []
    for column in x.unbind(2):  # [B, N, 4h]
        sums = column + conv1d(pad(h.mT, (before, after)), weight).mT
        o, f, i, g = sums.chunk(4, dim=2)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        states.append(h)
    return torch.stack(states, dim=2)


def diagonal_lstm(x: Tensor, weight: Tensor, order: str) -> Tensor:
    if not x.numel():
        return x[..., : weight.shape[1]].clone()  # no cells
    if order == "rows":
        return lstm_over_columns(x.transpose(1, 2), weight, weight.shape[2] // 2).transpose(1, 2).contiguous()
    return unskew(lstm_over_columns(skew(x), weight, 1)).contiguous()
