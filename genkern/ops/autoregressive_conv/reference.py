"""Autoregressive convolution and its inverse in plain PyTorch: the definition that every kernel is compared with."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad


def live_taps(weight: Tensor, square: bool, reverse: bool) -> Tensor:
    """The weight with zeros at all taps that a pixel must not see.

    It sees itself through a triangular matrix, and what lies before it in raster order (square: of that, only what
    lies neither below nor after it). In reverse order it sees what lies after it, and the triangle is the upper one.
    """
    if reverse:
        return live_taps(weight.flip(0, 1, 2, 3), square, False).flip(0, 1, 2, 3)
    rows, columns = (size // 2 for size in weight.shape[2:])
    seen = weight[:, :, : rows + 1, : columns + 1] if square else weight
    width = seen.shape[3]
    flat, centre = seen.flatten(2), rows * width + columns
    before, own = flat[:, :, :centre], flat[:, :, centre].tril().unsqueeze(-1)
    after = torch.zeros_like(flat[:, :, centre + 1 :])
    kept = torch.cat([before, own, after], 2).view_as(seen)
    return pad(kept, (0, columns, 0, rows)) if square else kept


def autoregressive_taps(weight: Tensor, square: bool, reverse: bool) -> tuple[Tensor, Tensor]:
    """The live taps, and the sum of ln |L_cc| over the diagonal of the centre."""
    diagonal = weight[:, :, weight.shape[2] // 2, weight.shape[3] // 2].diagonal()
    return live_taps(weight, square, reverse), diagonal.abs().log().sum()


def autoregressive_conv(x: Tensor, weight: Tensor, square: bool, reverse: bool) -> Tensor:
    return conv2d(x, live_taps(weight, square, reverse), padding=(weight.shape[2] // 2, weight.shape[3] // 2))


def autoregressive_solve(y: Tensor, weight: Tensor, square: bool, reverse: bool) -> Tensor:
    """The x whose convolution is y: pixels that do not see each other lie on one front, and are solved for together."""
    if reverse:
        return autoregressive_solve(y.flip(1, 2, 3), weight.flip(0, 1, 2, 3), square, False).flip(1, 2, 3)
    batch, channels, height, width = y.shape
    rows, columns = weight.shape[2] // 2, weight.shape[3] // 2
    lag = 1 if square else columns + 1  # pixel (i, j) lies on front j + lag * i
    taps = seen_pixels(rows, columns, square)[1:]
    centre = weight[:, :, rows, columns].tril()
    mixing = [weight[:, :, rows - dy, columns - dx] for dy, dx in taps]
    row = torch.arange(height, device=y.device)
    outside = y.new_zeros(channels, batch, height)
    fronts: list[Tensor] = []  # [C, B, H] each, with zeros beside the picture
    for f, right in enumerate(_skewed(y, lag)):
        sources = [fronts[f - dx - lag * dy] if f >= dx + lag * dy else outside for dy, dx in taps]
        seen = [
            pad(source[..., : max(height - dy, 0)], (min(dy, height), 0))
            for source, (dy, _) in zip(sources, taps, strict=True)
        ]
        if taps:
            product = torch.cat(mixing, 1) @ torch.cat(seen).flatten(1)
            right = right - product.view_as(right)
        solved = torch.linalg.solve_triangular(centre, right.flatten(1), upper=False).view_as(right)
        inside = (row * lag <= f) & (f < row * lag + width)
        fronts.append(torch.where(inside, solved, 0))
    return _straightened(fronts, lag, width)


def seen_pixels(rows: int, columns: int, square: bool) -> list[tuple[int, int]]:
    """How far above and before a pixel lie those that it sees; itself first."""
    beside = range(0 if square else -columns, columns + 1)
    return [(dy, dx) for dy in range(rows + 1) for dx in beside if dy > 0 or dx >= 0]


def _skewed(y: Tensor, lag: int) -> list[Tensor]:
    """Its fronts, ``[C, B, H]`` each: row i moves ``lag * i`` columns to the right."""
    height, width = y.shape[2:]
    count = width + lag * (height - 1)
    rows = pad(y, (0, count + lag - width)).flatten(2)[..., : height * count]
    return list(rows.view(*y.shape[:2], height, count).permute(3, 1, 0, 2))


def _straightened(fronts: list[Tensor], lag: int, width: int) -> Tensor:
    rows = torch.stack(fronts, -1).transpose(0, 1)  # [B, C, H, fronts]
    height = rows.shape[2]
    flat = pad(rows.flatten(2), (0, lag * height))
    return flat.view(*rows.shape[:3], len(fronts) + lag)[..., :width]
