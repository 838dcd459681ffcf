"""Relaxed draws from categoricals: noise inside and again in the backward pass, soft or straight-through."""

from __future__ import annotations

import torch
from torch import Tensor

from .._checks import check, check_floating, check_key
from .._library import define_op
from ..random import key_from
from . import noise as drawn

_op = define_op(
    "gumbel_softmax",
    drawn.gumbel_softmax,
    schema="(Tensor logits, Tensor key, float temperature, bool hard, SymInt sample_offset) -> Tensor",
    differentiable=("logits",),
    fake=lambda logits, *rest: logits.new_empty(logits.shape),
)


def gumbel_softmax(
    logits: Tensor,
    temperature: float = 1.0,
    *,
    hard: bool = False,
    dim: int = -1,
    key: Tensor | None = None,
    generator: torch.Generator | None = None,
    sample_offset: int = 0,
    impl: str = "auto",
) -> Tensor:
    r"""Draws from a categorical, relaxed so that the logits have a gradient.

    .. math:: y = \operatorname{softmax}\!\big((\ell + g) / \tau\big), \qquad g = -\ln(-\ln u)

    with uniform noise :math:`u` of the key, the same as ``genkern.random.uniform(key, logits.shape)``, drawn in the
    kernel and again in the backward pass: nothing is saved but the logits. Whatever the temperature, the largest
    element is a draw from ``softmax(logits)``.

    Args:
        logits: ``[B, *]`` with the classes in dimension ``dim``; -inf rules a class out, unless all are.
        temperature: :math:`\tau > 0`; towards 0 draws become one-hot and gradients large. Schedules: `genkern.nn`.
        hard: one-hot vectors (the first of equals), with the gradient of the soft ones: straight-through.
        dim: of the classes, not the first; -1 as in `torch.nn.functional.gumbel_softmax`, 1 for maps.
        key: of the noise, from `genkern.random`; None: one is drawn from ``generator``.
        generator: None: the default generator of the device of ``logits``.
        sample_offset: index of the first sample, where this is a part of a larger batch.
        impl: ``"auto"``, or ``"torch"`` for the definition.

    Returns:
        Like ``logits``, contiguous; sums to 1 over ``dim``.

    Raises:
        ValueError, TypeError: if an argument cannot be used.

    First and second derivatives in ``logits``; CPU and CUDA; float64, float32, bfloat16, float16.
    Jang et al. 2017 (arXiv:1611.01144), eq. 2 and section 2.2; Maddison et al. 2017 (arXiv:1611.00712).

    >>> y = gumbel_softmax(torch.zeros(8, 3), hard=True)
    >>> y.sum(1)
    tensor([1., 1., 1., 1., 1., 1., 1., 1.])
    """
    name = "gumbel_softmax"
    check_floating(name, "logits", logits)
    check(logits.dim() >= 2, name, "logits", "[B, *] with a dimension of classes", logits.shape)
    check(-logits.dim() <= dim < logits.dim() and dim % logits.dim() != 0, name, "dim", "one after the first", dim)
    dim = dim % logits.dim()
    check(logits.shape[dim] >= 1, name, "logits", "of at least one class", logits.shape)
    check(temperature > 0, name, "temperature", "positive", temperature)
    check(sample_offset >= 0, name, "sample_offset", "at least 0", sample_offset)
    if key is None:
        key = key_from(generator, device=logits.device)
    check_key(name, key, logits.device)
    shape = logits.shape[0], logits.shape[1:dim].numel(), logits.shape[dim], logits.shape[dim + 1 :].numel()
    flat = logits.contiguous().reshape(shape)
    return _op(flat, key, float(temperature), hard, sample_offset, impl=impl).reshape(logits.shape)


__all__ = ["gumbel_softmax"]
