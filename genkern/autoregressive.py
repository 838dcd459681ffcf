"""Autoregressive networks: do they leak, and samples a thousand times faster.

>>> import torch
>>> from torch import nn
>>> from genkern import autoregressive, random
>>> from genkern.nn import MaskedConv2d
>>> network = nn.Sequential(MaskedConv2d(1, 16, 7, mask="A"), nn.ReLU(), MaskedConv2d(16, 4, 3, mask="B"))
>>> print(autoregressive.check_causality(network, (1, 6, 6)))
0 leaks; sees 550 of 630 earlier sub-pixels (channel, row, column)
>>> autoregressive.sample(network, (2, 1, 6, 6), levels=4, key=random.key(0)).shape
torch.Size([2, 1, 6, 6])
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from . import random
from .nn.autoregressive import Causality, Progress, Untraceable, cached, check_causality, jacobi, naive
from .ops import sample_discretized_mixture_logistics
from .ops._checks import check_levels
from .ops.causal_sample.reference import draw

HEADS = ("categorical", "mixture", "quantile")
METHODS = ("cached", "wavefront", "jacobi", "naive")


@torch.no_grad()
def sample(
    network: nn.Module,
    shape: Sequence[int],
    *,
    levels: int,
    key: Tensor,
    head: str = "categorical",
    condition: Tensor | None = None,
    features: Tensor | None = None,
    given: Tensor | None = None,
    free: Tensor | None = None,
    first_row: int = 0,
    temperature: float = 1.0,
    method: str = "cached",
    sample_offset: int = 0,
    progress: Progress | None = None,
) -> Tensor:
    """Pictures from any stack of causal layers; models of `genkern.models` do the same by ``model.sample``.

    A sample is a function of the weights and of the uniform numbers of the key: every method gives the same pixels, up
    to a uniform number that lies within rounding of the border between two levels.

    Args:
        network: from pixels in [-1, 1], ``[B, C, H, W]``, to what the head takes, ``[B, *, H, W]``; made of
            `MaskedConv2d`, `VerticalConv2d`, `GatedMaskedConv2d`, `ShiftedConv2d` (also those that halve or double the
            resolution), 1x1 convolutions, sums, products, gates and ReLU, ELU, SiLU, tanh or sigmoid (by ``"jacobi"``
            and ``"naive"``: of anything). Or of sequences, ``[B, C, T]`` to ``[B, *, T]``, with `CausalConv1d`.
        shape: ``(B, C, H, W)``, or ``(B, C, T)``.
        levels: integer values of a pixel.
        key: from `genkern.random.key`, on the device of the network.
        head: what the network gives of a pixel: ``"categorical"``, logits, ``C * levels`` in groups of one sub-pixel;
            ``"mixture"``, of logistics, ``3K`` for one channel or ``10K`` for three, as
            `genkern.ops.sample_discretized_mixture_logistics` takes them, which draws all channels of a pixel at once;
            ``"quantile"``, ``C`` values in [0, 1], less one half, of which the nearest levels are taken.
        condition: what the network takes as ``condition=``, ``[B, *]``.
        features: what it takes as ``features=`` beside the picture, ``[B, F, H, W]`` (``[B, F, T]``).
        given: pixels of which some are kept, integers, ``[B, C, H, W]``.
        free: which pixels to draw, bool, ``[H, W]`` (``[T]``); all others are those given.
        first_row: rows above it (steps before it) are those given.
        temperature: divides the logits, and multiplies the scales of a mixture; 0 takes the most likely level.
        method: ``"cached"``: every activation is computed once, in one call for all pictures; ``"wavefront"``: the
            same in PyTorch, with a pixel of every row at a time; ``"jacobi"``: whole passes until nothing changes;
            ``"naive"``: a pass for every sub-pixel.
        sample_offset: the number of the first sample, where this is a part of a larger batch.
        progress: called now and then with how much is done and how much there is.

    Returns:
        Integers like ``shape``: uint8 up to 256 levels, else int32.

    Raises:
        Untraceable: if the network has other parts than causal layers; it names the first.
        ValueError: if arguments do not fit.
    """
    if method not in METHODS:
        raise ValueError(f"sample: method must be one of {METHODS}; got {method!r}.")
    if head not in HEADS:
        raise ValueError(f"sample: head must be one of {HEADS}; got {head!r}.")
    if len(shape) not in (3, 4):
        raise ValueError(f"sample: shape must be (B, C, H, W) or (B, C, T); got {tuple(shape)}.")
    size, dtype = tuple(shape), torch.uint8 if levels <= 256 else torch.int32
    free = torch.ones(size[2:], dtype=torch.bool) if free is None else free.clone()
    if free.dtype != torch.bool or tuple(free.shape) != size[2:]:
        raise ValueError(f"sample: free must be bool {list(size[2:])}; got {free.dtype} {list(free.shape)}.")
    free[:first_row] = False
    if given is None and not free.all():
        raise ValueError("sample: given must be pixels, where some are not free; got None.")
    if given is not None and tuple(given.shape) != size:
        raise ValueError(f"sample: given must be {list(size)}; got {list(given.shape)}.")
    if given is not None:
        check_levels("sample", "given", given[..., ~free.to(given.device)], levels)
    free = free.to(key.device)
    x = torch.zeros(size, dtype=dtype, device=key.device)
    x = x if given is None else torch.where(free, x, given.to(x))
    noise_size = (size[0], size[1] + (head == "mixture"), *size[2:])
    noise = random.uniform(key, noise_size, sample_offset=sample_offset)
    sequence = len(size) == 3
    if sequence:  # a column, whose steps are rows
        x, noise, free = x[..., None], noise[..., None], free[:, None]
    if method in ("cached", "wavefront"):
        given_map = features[..., None] if sequence and features is not None else features
        drawn = cached(
            network, x, noise, free, levels=levels, head=head, condition=condition, features=given_map,
            temperature=temperature, method=method, progress=progress,
        )  # fmt: skip
        return drawn[..., 0] if sequence else drawn
    weights = next(network.parameters())
    others = {"condition": condition, "features": features}
    others = {name: value for name, value in others.items() if value is not None}

    def conditionals(x: Tensor) -> Tensor:
        scaled = x.to(weights.dtype) * (2 / (levels - 1)) - 1
        scaled = scaled[..., 0] if sequence else scaled
        params = network(scaled, **others)
        params = params[..., None] if sequence else params
        if head == "categorical":
            return params.unflatten(1, (size[1], levels)).transpose(1, 2)  # [B, levels, C, H, W]
        return params

    def draw_all(params: Tensor, noise: Tensor) -> Tensor:
        if head == "mixture":
            return sample_discretized_mixture_logistics(
                params, channels=size[1], noise=noise, levels=levels, temperature=temperature, dtype=dtype
            )
        if head == "quantile":
            return ((params + 0.5) * (levels - 1)).round().clamp(0, levels - 1).to(dtype)
        flat = params.movedim(1, -1)
        return draw(flat.reshape(-1, levels), noise.flatten(), temperature).view(flat.shape[:-1]).to(dtype)

    training = network.training
    network.eval()
    try:
        if method == "naive":
            x = naive(conditionals, draw_all, x, noise, free, joint=head == "mixture", progress=progress)
        else:
            x = jacobi(conditionals, draw_all, x, noise, free, progress)[0]
        return x[..., 0] if sequence else x
    finally:
        network.train(training)


__all__ = ["Causality", "Untraceable", "check_causality", "sample"]
