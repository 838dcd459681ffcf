"""Invertible 1x1 convolution and the linear algebra of its weights in plain PyTorch: the definition."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor


def runs(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Neighbouring matrices of one size: ``[(count, size), ...]``."""
    return [(len(list(group)), size) for size, group in groupby(sizes)]


def stacks(matrices: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """A flat sequence of square matrices as stacks of equal size, ``[count, n, n]`` each; no copies."""
    shapes = [(count, size, size) for count, size in runs(sizes)]
    if len(shapes) == 1:
        return [matrices.view(shapes[0])]
    pieces = matrices.split([count * size * size for count, size, _ in shapes]) if shapes else []
    return [piece.unflatten(0, shape) for piece, shape in zip(pieces, shapes, strict=True)]


def flat(pieces: Sequence[Tensor], like: Tensor) -> Tensor:
    if len(pieces) == 1:
        return pieces[0].reshape(-1)
    return torch.cat([piece.reshape(-1) for piece in pieces]) if pieces else like.new_empty(0)


def lu_inverse(matrices: Tensor, sizes: Sequence[int], with_inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
    """log|det|, sign and inverse of each matrix; at a singular one -inf, 0 and NaN, and zero gradients."""
    log_abs_dets, signs, inverses = [], [], []
    for stack in stacks(matrices, sizes):
        singular = torch.linalg.slogdet(stack.detach()).sign == 0  # [M]
        identity = torch.eye(stack.shape[-1], dtype=stack.dtype, device=stack.device)
        regular = torch.where(singular[:, None, None], identity, stack)
        sign, log_abs_det = torch.linalg.slogdet(regular)
        log_abs_dets.append(log_abs_det.masked_fill(singular, -torch.inf))
        signs.append(sign.masked_fill(singular, 0).detach())
        if with_inverse:
            inverse = torch.linalg.inv_ex(regular).inverse
            inverses.append(inverse.masked_fill(singular[:, None, None], torch.nan))
    return flat(log_abs_dets, matrices), flat(signs, matrices), flat(inverses, matrices)


def fold_actnorm(
    weight: Tensor, log_scale: Tensor, bias: Tensor, log_abs_det: Tensor, shift_first: bool
) -> tuple[Tensor, Tensor, Tensor]:
    scaled = weight * log_scale.exp()
    return scaled, ((scaled if shift_first else weight) * bias).sum(1), log_abs_det + log_scale.sum()


def mix(x: Tensor, weight: Tensor, bias: Tensor, log_abs_det: Tensor) -> tuple[Tensor, Tensor]:
    columns = x.flatten(2)  # [B, C, N]
    y = weight @ columns + bias[:, None]
    return y.reshape(x.shape), (columns.shape[2] * log_abs_det).repeat(x.shape[0])


def invertible_conv1x1(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, inverse: bool = False
) -> tuple[Tensor, Tensor]:
    log_abs_det, _, inverted = lu_inverse(weight.reshape(-1), [len(weight)], inverse)
    columns = x.flatten(2) if x.dim() > 2 else x[:, :, None]  # [B, C, N]
    shift = torch.zeros_like(weight[0]) if bias is None else bias
    if inverse:
        y = inverted.view_as(weight) @ (columns - shift[:, None])
    else:
        y = weight @ columns + shift[:, None]
    log_det = columns.shape[2] * log_abs_det  # [1]
    return y.reshape(x.shape), (-log_det if inverse else log_det).repeat(x.shape[0])
