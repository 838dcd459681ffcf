"""Inverse of an autoregressive flow on a MADE in plain PyTorch: each hidden unit is computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import elu, logsigmoid, relu

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": relu, "tanh": torch.tanh, "elu": elu}
Solve = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def made_inverse(
    z: Tensor,
    weight: Tensor,
    bias: Tensor,
    offset: Tensor,
    hidden: Sequence[int],
    starts: Sequence[int],
    order: Sequence[int],
    activation: str,
    residual: bool,
    scale: str,
    bound: float,
    standardize: bool,
) -> tuple[Tensor, Tensor]:
    def solve(z: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return solve_affine(z, params, scale, bound, standardize)

    layers = layers_of(weight, bias, hidden, z.shape[1])
    return incremental(z, layers, offset, starts, order, ACTIVATIONS[activation], residual, solve)


def incremental(
    z: Tensor,
    layers: Sequence[tuple[Tensor, Tensor]],
    offset: Tensor,
    starts: Sequence[int],
    order: Sequence[int],
    activation: Callable[[Tensor], Tensor],
    residual: bool,
    solve: Solve,
) -> tuple[Tensor, Tensor]:
    """``x`` and the log-determinant for any elementwise transform, from ``solve(z [B, 1], params [B, P])``.

    Step k computes the units of degree k of each layer, from all units of lower degree, then element ``order[k]``.
    """
    features, (*inner, (last, last_bias)) = len(order), layers
    natural = list(order) == list(range(features))
    first = starts[: features + 1]
    by_layer = [starts[i : i + features + 1] for i in range(0, len(starts), features + 1)]
    columns = [range(features), *(degrees[1:] for degrees in by_layer)]  # that step k sees of each layer
    known = [z[:, :0], *(z[:, : degrees[0]] for degrees in by_layer)]  # activations, in the order of their degree
    streams = list(known)
    log_det = z.new_zeros(z.shape[0])
    for k, dim in enumerate(order):
        for number, (weight, bias) in enumerate(inner, 1):
            begin, end = by_layer[number - 1][k : k + 2]
            if begin == end:
                continue
            rows = weight[begin:end]
            rows = rows[:, : columns[number - 1][k]] if number > 1 or natural else rows[:, list(order[:k])]
            h = known[number - 1] @ rows.mT + bias[begin:end]
            if number == 1 and offset.shape[1]:
                h = h + offset[:, first[k] : first[k + 1]]
            if residual and number % 2 == 1:
                h = h + streams[number - 2][:, begin:end] if number > 1 else h
                streams[number] = torch.cat([streams[number], h], dim=1)
            known[number] = torch.cat([known[number], activation(h)], dim=1)
        rows = last[dim::features, : columns[-1][k]]
        x, term = solve(z[:, dim : dim + 1], known[-1] @ rows.mT + last_bias[dim::features])
        known[0] = torch.cat([known[0], x], dim=1)
        log_det = log_det + term
    x = known[0] if natural else known[0][:, [order.index(dim) for dim in range(features)]]
    return x, log_det


def solve_affine(z: Tensor, params: Tensor, scale: str, bound: float, standardize: bool) -> tuple[Tensor, Tensor]:
    """The inverse of ``e^l x + t``, or of ``(x - t) e^-l``, for one element, ``[B, 1]``."""
    raw, shift = params.chunk(2, dim=1)
    if scale == "exp":
        log_scale = raw
    elif scale == "tanh":
        log_scale = bound * torch.tanh(raw / bound)
    else:
        log_scale = logsigmoid(raw + 2.0)
    if scale == "gated":
        shift = torch.sigmoid(-2.0 - raw) * shift
    if standardize:
        return z * log_scale.exp() + shift, log_scale.flatten()
    return (z - shift) * (-log_scale).exp(), -log_scale.flatten()


def layers_of(weight: Tensor, bias: Tensor, hidden: Sequence[int], features: int) -> list[tuple[Tensor, Tensor]]:
    """``(W, b)`` of each layer from the flat parameters; no copies."""
    outputs = bias.shape[0] - sum(hidden)
    heights, widths = [*hidden, outputs], [features, *hidden]
    weights = weight.split([rows * columns for rows, columns in zip(heights, widths, strict=True)])
    shaped = [w.view(shape) for w, shape in zip(weights, zip(heights, widths, strict=True), strict=True)]
    return list(zip(shaped, bias.split(heights), strict=True))
