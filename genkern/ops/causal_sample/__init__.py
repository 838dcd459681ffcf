"""Sampling of whole pictures from a stack of causal layers, every activation computed once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._checks import check
from .._library import define_op
from . import reference
from .reference import MIXTURE, Program, decode, encode

_op = define_op(
    "causal_sample",
    reference.causal_sample,
    schema="(Tensor x, Tensor weights, Tensor conditions, Tensor features, Tensor noise, Tensor free, int[] code,"
    " int levels, float temperature) -> Tensor",
)


def causal_sample(
    x: Tensor,
    weights: Tensor,
    noise: Tensor,
    program: Program | Sequence[int],
    *,
    levels: int,
    conditions: Tensor | None = None,
    features: Tensor | None = None,
    free: Tensor | None = None,
    temperature: float = 1.0,
    impl: str = "auto",
) -> Tensor:
    r"""Draws integer pixels in raster order, each from a distribution given all before it.

    .. math:: x_i = \#\{k < K - 1 : F_i(k) < u_i\}, \qquad F_i(k) = \sum_{l \le k} p(x_i = l \mid x_{<i})

    or by `sample_discretized_mixture_logistics`, all channels of a pixel at once; or the level nearest to a quantile.
    The whole picture is one call, and costs one forward pass in total: activations are kept, and what a row needs from
    the rows above is computed for all its pixels together. `genkern.autoregressive.sample` makes the program and packs
    the weights of a model.

    Args:
        x: pixels to begin with, int32, ``[B, C, H, W]``; those that are not free are kept.
        weights: all weights of the program, ``[N]``, float32 or float64.
        noise: uniform numbers ``u``, ``[B, C, H, W]``; of a mixture ``[B, 1 + C, H, W]``.
        program: the layers, and the head; see `genkern.ops.causal_sample.reference`.
        levels: ``K``.
        conditions: vectors that enter the gates of a sample, ``[B, M]``.
        features: a map that enters the layers beside the picture, ``[B, H, W, F]``.
        free: which pixels to draw, bool, ``[H, W]``; None: all.
        temperature: divides the logits, and multiplies the scales of a mixture; 0 takes the most likely level.
        impl: ``"auto"``, or ``"torch"`` for the definition: the same in PyTorch, some fifty kernels a pixel.

    Returns:
        Pixels like ``x``: the same bits whatever the batch and the number of threads.

    Raises:
        ValueError, TypeError: if a shape, a dtype or the temperature cannot be used.

    No derivative. Ramachandran et al. 2017 (arXiv:1704.06001).
    """
    code = encode(program) if isinstance(program, Program) else list(program)
    op = "causal_sample"
    check(
        weights.dtype in (torch.float32, torch.float64), op, "weights", "float32 or float64", weights.dtype, TypeError
    )
    check(weights.dim() == 1, op, "weights", "[N]", weights.shape)
    check(x.dtype == torch.int32, op, "x", "int32", x.dtype, TypeError)
    check(x.dim() == 4 and x.shape[1] == code[1], op, "x", f"[B, {code[1]}, H, W]", x.shape)
    size = [len(x), code[1] + (code[2] == MIXTURE), *x.shape[2:]]
    check(list(noise.shape) == size, op, "noise", str(size), noise.shape)
    check(levels >= 2, op, "levels", "2 or more", levels)
    check(temperature >= 0, op, "temperature", "0 or more", temperature)
    conditions = weights.new_zeros(len(x), 0) if conditions is None else conditions
    check(conditions.dim() == 2 and len(conditions) == len(x), op, "conditions", f"[{len(x)}, M]", conditions.shape)
    sites = [len(x), *x.shape[2:]]
    features = weights.new_zeros(*sites, 0) if features is None else features
    fits = features.dim() == 4 and list(features.shape[:3]) == sites
    check(fits, op, "features", f"[{', '.join(map(str, sites))}, F]", features.shape)
    free = torch.ones(x.shape[2:], dtype=torch.bool, device=x.device) if free is None else free
    check(free.dtype == torch.bool and free.shape == x.shape[2:], op, "free", f"bool {list(x.shape[2:])}", free.shape)
    for name, tensor in {
        "weights": weights, "noise": noise, "free": free, "conditions": conditions, "features": features,
    }.items():  # fmt: skip
        check(tensor.device == x.device, op, name, f"on {x.device}", tensor.device)
    conditions, features, noise = (tensor.to(weights.dtype) for tensor in (conditions, features, noise))
    return _op(x, weights, conditions, features, noise, free, code, levels, float(temperature), impl=impl)


__all__ = ["Program", "causal_sample", "decode", "encode"]
