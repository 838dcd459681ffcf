"""Draws straight from logits, with the probability of what was drawn, in one read."""

from __future__ import annotations

import torch
from torch import Tensor

from .._checks import check, check_floating, check_key
from .._library import define_op, wide_dtype
from ..random import key_from, uniform
from . import reference

_op = define_op(
    "categorical_sample",
    reference.categorical_sample,
    schema="(Tensor logits, Tensor noise, float temperature, int top_k) -> (Tensor, Tensor)",
    wide=(0, 1),
)


def categorical_sample(
    logits: Tensor,
    *,
    dim: int = 1,
    temperature: float = 1.0,
    top_k: int | None = None,
    noise: Tensor | None = None,
    key: Tensor | None = None,
    generator: torch.Generator | None = None,
    sample_offset: int = 0,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    r"""Draws a class for every vector of logits by the inverse of its cumulative distribution.

    .. math:: i = \min \Big\{ j : \sum_{l \le j} w_l > u \sum_l w_l \Big\}, \qquad
              w_l = e^{z_l / T} \text{ for the } k \text{ largest } z_l \text{, else } 0

    A draw is a function of logits and noise alone. Of equal logits the first counts as the larger one.

    Args:
        logits: ``[B, *]`` with the classes in dimension ``dim``; -inf rules a class out, unless all are.
        dim: of the classes: 1 for pictures ``[B, V, C, H, W]``, -1 for tokens ``[B, N, V]``.
        temperature: :math:`T`; 0 takes the largest logit.
        top_k: :math:`k`; None: all classes.
        noise: uniform numbers in [0, 1), of the shape of ``logits`` without ``dim``; None: drawn.
        key: of the noise, from `genkern.random`; None: one is drawn from ``generator``.
        generator: None: the default generator of the device of ``logits``.
        sample_offset: index of the first sample, where this is a part of a larger batch.
        impl: ``"auto"``, or ``"torch"`` for the definition.

    Returns:
        The classes, int64, and their log-probabilities under ``softmax(logits)``, of all classes and at temperature 1
        (the model's confidence), float32 or wider; both of the shape of ``logits`` without ``dim``.

    Raises:
        ValueError, TypeError: if an argument cannot be used.

    No derivative; CPU and CUDA; arithmetic in float32 or wider.

    >>> classes, log_prob = categorical_sample(torch.tensor([[0.0, 3.0, 1.0]]), temperature=0.0)
    >>> classes, log_prob.exp()
    (tensor([1]), tensor([0.8438]))
    """
    name = "categorical_sample"
    check_floating(name, "logits", logits)
    check(logits.dim() >= 2, name, "logits", "[B, *] with a dimension of classes", logits.shape)
    check(-logits.dim() <= dim < logits.dim() and dim % logits.dim() != 0, name, "dim", "one after the first", dim)
    dim = dim % logits.dim()
    classes = logits.shape[dim]
    check(classes >= 1, name, "logits", "of at least one class", logits.shape)
    check(temperature >= 0, name, "temperature", "at least 0", temperature)
    check(top_k is None or isinstance(top_k, int) and top_k >= 1, name, "top_k", "None or an int, at least 1", top_k)
    shape = (*logits.shape[:dim], *logits.shape[dim + 1 :])
    if noise is None:
        key = key_from(generator, device=logits.device) if key is None else key
        check_key(name, key, logits.device)
        noise = uniform(key, shape, sample_offset=sample_offset)
    check_floating(name, "noise", noise)
    check(tuple(noise.shape) == shape, name, "noise", f"{list(shape)}", noise.shape)
    check(noise.device == logits.device, name, "noise", f"on {logits.device}", noise.device)
    outer, inner = logits.shape[:dim].numel(), logits.shape[dim + 1 :].numel()
    flat = logits.detach().contiguous().reshape(outer, classes, inner)
    noise = noise.to(wide_dtype(logits.dtype)).contiguous().reshape(outer, inner)
    kept = 0 if top_k is None or top_k >= classes else top_k
    index, log_prob = _op(flat, noise, float(temperature), kept, impl=impl)
    return index.reshape(shape), log_prob.reshape(shape)


__all__ = ["categorical_sample"]
