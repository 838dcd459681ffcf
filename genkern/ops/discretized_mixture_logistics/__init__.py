"""Discretised mixtures of logistics: the likelihood of integer pixels in one pass, exactly, and draws from it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .._checks import check, check_choice, check_floating, check_key
from .._library import define_op, wide_dtype
from ..random import key_from, uniform
from . import reference

INTEGERS = (torch.uint8, torch.int16, torch.int32, torch.int64)
FORMS = ("exact", "reference")
REDUCTIONS = ("none", "sum")

_op = define_op(
    "discretized_mixture_logistics",
    reference.discretized_mixture_logistics,
    schema="(Tensor params, Tensor x, int levels, float low, float high, bool open_edges, float min_log_scale)"
    " -> Tensor",
    differentiable=("params",),
    wide=(0,),
)
_sample = define_op(
    "discretized_mixture_logistics_sample",
    reference.discretized_mixture_logistics_sample,
    schema="(Tensor params, Tensor noise, int levels, float low, float high, float min_log_scale, float temperature,"
    " ScalarType dtype) -> Tensor",
    wide=(0,),
)


def discretized_mixture_logistics(
    params: Tensor,
    x: Tensor,
    *,
    levels: int = 256,
    low: float = -1.0,
    high: float = 1.0,
    open_edges: bool = True,
    min_log_scale: float = -7.0,
    reduction: str = "none",
    form: str = "exact",
    impl: str = "auto",
) -> Tensor:
    r"""Negative log-probability of integer pixels under a discretised mixture of logistics (DMOL).

    .. math:: -\log \sum_k \pi_k \prod_c \left[\sigma(p_{kc}) - \sigma(m_{kc})\right], \qquad
              (p, m) = e^{-s} \left(v_c - \mu_{kc} \pm \tfrac{\Delta}{2}\right)

    with the value :math:`v = \mathrm{low} + x \Delta` of a level, :math:`\Delta = (\mathrm{high} - \mathrm{low}) /
    (L - 1)`, and for three channels :math:`\mu_G` and :math:`\mu_B` linear in the true values of the channels before:
    :math:`\mu_G + \tanh(c_0) v_R` and :math:`\mu_B + \tanh(c_1) v_R + \tanh(c_2) v_G`. The difference is computed as

    .. math:: \log[\sigma(p) - \sigma(m)] = \log \sigma(p) + \log \sigma(-m) + \log(1 - e^{-(p - m)})

    without cancellation, thresholds or floors, so the gradients are those of the value, and finite.

    Args:
        params: ``[B, 3K, *]`` for one channel: ``K`` logits, means, log-scales; ``[B, 10K, *]`` for three: ``K``
            logits, then for each channel ``K`` means, log-scales and coefficients, as in PixelCNN++.
        x: levels in ``[0, levels)``, ``[B, C, *]`` with 1 or 3 channels: uint8, int16, int32 or int64. What lies
            outside counts as the end level where edges are open; to look for it would cost a synchronisation.
        levels: :math:`L`, from 2 to 65536.
        low, high: values of the first and the last level.
        open_edges: the end levels hold the tails, so that the probabilities of all levels sum to 1.
        min_log_scale: lower bound of the log-scales, at least -20; the gradient is 0 below it.
        reduction: ``"none"`` for each pixel, or ``"sum"`` over the pixels of each sample.
        form: ``"exact"``, or ``"reference"`` for the published form in plain PyTorch, whose error reaches 1e-2 bits
            per dimension at sharp scales.
        impl: ``"auto"``, or ``"torch"`` for the definition.

    Returns:
        Nats, ``[B, *]`` (or ``[B]``), float32 or wider.

    Raises:
        ValueError, TypeError: if an argument cannot be used.

    First and second derivatives in ``params``; CPU and CUDA; nothing is saved but the inputs.
    Salimans et al. 2017 (arXiv:1701.05517), eq. 1-3.

    >>> x = torch.randint(0, 256, (8, 3, 16, 16))
    >>> discretized_mixture_logistics(torch.zeros(8, 100, 16, 16), x, reduction="sum").shape
    torch.Size([8])
    """
    name = "discretized_mixture_logistics"
    check_floating(name, "params", params)
    check(isinstance(x, Tensor), name, "x", "a tensor", type(x).__name__, TypeError)
    check(x.dtype in INTEGERS, name, "x", "uint8, int16, int32 or int64", x.dtype, TypeError)
    check(x.device == params.device, name, "x", f"on {params.device}", x.device)
    check_choice(name, "form", form, FORMS)
    check_choice(name, "reduction", reduction, REDUCTIONS)
    check(x.dim() >= 2 and x.shape[1] in (1, 3), name, "x", "[B, C, *] with 1 or 3 channels", x.shape)
    _check_params(name, params, x.shape[1])
    fits = params.shape[0] == x.shape[0] and params.shape[2:] == x.shape[2:]
    check(fits, name, "x", "[B, C, *] with the B and * of params", (x.shape, "params is", params.shape))
    _check_levels(name, levels, low, high, min_log_scale)
    rest = (levels, float(low), float(high), open_edges, float(min_log_scale))
    if form == "reference":
        nll = reference.paper_form(params.to(wide_dtype(params.dtype)), x, *rest)
    else:
        nll = _op(params.contiguous(), x.contiguous(), *rest, impl=impl)
    return nll if reduction == "none" else nll.reshape(nll.shape[0], nll.shape[1:].numel()).sum(1)


def sample_discretized_mixture_logistics(
    params: Tensor,
    *,
    channels: int = 3,
    noise: Tensor | None = None,
    key: Tensor | None = None,
    generator: torch.Generator | None = None,
    sample_offset: int = 0,
    levels: int = 256,
    low: float = -1.0,
    high: float = 1.0,
    min_log_scale: float = -7.0,
    temperature: float = 1.0,
    dtype: torch.dtype | None = None,
    impl: str = "auto",
) -> Tensor:
    r"""Draws integer pixels from the distribution of `discretized_mixture_logistics`, by inverse cumulative functions.

    .. math:: k: \textstyle\sum_{j<k} \pi_j \le u_0 < \sum_{j \le k} \pi_j, \qquad
              v_c = \mu_{kc} + e^{s_{kc}} \operatorname{logit} u_{1+c}, \qquad
              x_c = \operatorname{round} \left( (v_c - \mathrm{low}) / \Delta \right) \text{ within } [0, L)

    G and B are drawn given the levels of the channels before them, which is what the likelihood conditions on. A pixel
    is a function of its parameters and of its noise alone.

    Args:
        params: as `discretized_mixture_logistics`, ``[B, 3K, *]`` or ``[B, 10K, *]``.
        channels: 1 or 3.
        noise: uniform numbers in (0, 1), ``[B, 1 + channels, *]``: that of the component first; None: drawn.
        key: of the noise, from `genkern.random`; None: one is drawn from ``generator``.
        generator: None: the default generator of the device of ``params``.
        sample_offset: index of the first sample, where this is a part of a larger batch.
        levels, low, high, min_log_scale: as `discretized_mixture_logistics`.
        temperature: divides the logits and multiplies the scales; 0 takes the mean of the likeliest component.
        dtype: uint8, int16, int32 or int64; None: uint8 up to 256 levels, else int32.
        impl: ``"auto"``, or ``"torch"`` for the definition.

    Returns:
        Levels, ``[B, channels, *]``.

    Raises:
        ValueError, TypeError: if an argument cannot be used.

    No derivative; CPU and CUDA. Salimans et al. 2017 (arXiv:1701.05517), section 2.1.

    >>> sample_discretized_mixture_logistics(torch.zeros(2, 30, 4, 4), channels=1, levels=17, temperature=0.0)[0, 0, 0]
    tensor([8, 8, 8, 8], dtype=torch.uint8)
    """
    name = "sample_discretized_mixture_logistics"
    check_floating(name, "params", params)
    check(channels in (1, 3), name, "channels", "1 or 3", channels)
    _check_params(name, params, channels)
    _check_levels(name, levels, low, high, min_log_scale)
    check(temperature >= 0, name, "temperature", "at least 0", temperature)
    dtype = dtype or (torch.uint8 if levels <= 256 else torch.int32)
    check(dtype in INTEGERS, name, "dtype", "uint8, int16, int32 or int64", dtype, TypeError)
    check(levels - 1 <= torch.iinfo(dtype).max, name, "dtype", f"wide enough for {levels} levels", dtype)
    shape = (params.shape[0], channels + 1, *params.shape[2:])
    if noise is None:
        key = key_from(generator, device=params.device) if key is None else key
        check_key(name, key, params.device)
        noise = uniform(key, shape, sample_offset=sample_offset)
    check_floating(name, "noise", noise)
    check(noise.shape == shape, name, "noise", f"{list(shape)}", noise.shape)
    check(noise.device == params.device, name, "noise", f"on {params.device}", noise.device)
    wide = torch.promote_types(wide_dtype(params.dtype), wide_dtype(noise.dtype))
    params, noise = params.detach().to(wide).contiguous(), noise.to(wide).contiguous()
    rest: tuple[Any, ...] = (levels, float(low), float(high), float(min_log_scale), float(temperature), dtype)
    return _sample(params, noise, *rest, impl=impl)


def _check_params(name: str, params: Tensor, channels: int) -> None:
    parts = 3 if channels == 1 else 10
    fits = params.dim() >= 2 and params.shape[1] > 0 and params.shape[1] % parts == 0
    check(fits, name, "params", f"[B, {parts}K, *] for {channels} channel(s)", params.shape)


def _check_levels(name: str, levels: int, low: float, high: float, min_log_scale: float) -> None:
    check(isinstance(levels, int) and 2 <= levels <= 65536, name, "levels", "an int from 2 to 65536", levels)
    check(low < high, name, "low", f"below high = {high}", low)
    for argument, end in (("low", low), ("high", high)):
        check(math.isfinite(end), name, argument, "finite", end)
    check(min_log_scale >= -20, name, "min_log_scale", "at least -20", min_log_scale)


__all__ = ["discretized_mixture_logistics", "sample_discretized_mixture_logistics"]
