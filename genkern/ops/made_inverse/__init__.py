"""Inverse of an autoregressive flow whose network is a MADE: the whole recursion in one call."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._checks import check, check_choice, promote
from .._library import define_op, wide_dtype
from . import reference

SCALES = ("exp", "tanh", "sigmoid", "gated")


def _fake(z: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(z, memory_format=torch.contiguous_format), z.new_empty(z.shape[0])


_op = define_op(
    "made_inverse",
    reference.made_inverse,
    schema="(Tensor z, Tensor weight, Tensor bias, Tensor offset, int[] hidden, int[] starts, int[] order,"
    " str activation, bool residual, str scale, float bound, bool standardize) -> (Tensor, Tensor)",
    differentiable=("z", "weight", "bias", "offset"),
    wide=(1,),
    selective=True,
    fake=_fake,
)


def made_inverse(
    z: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    hidden: Sequence[int],
    starts: Sequence[int],
    order: Sequence[int],
    offset: Tensor | None = None,
    activation: str = "relu",
    residual: bool = False,
    scale: str = "tanh",
    bound: float = 5.0,
    standardize: bool = False,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    r"""Solves ``z = e^l x + t`` for ``x``, where ``l`` and ``t`` of each element are a MADE's function of those before.

    .. math:: x_d = (z_d - t_d(x_{<d}))\, e^{-l_d(x_{<d})}, \qquad
              \log\lvert\det \partial x / \partial z\rvert = -\sum_d l_d

    Step k computes the hidden units of degree k, which see the first k elements, then element k: each unit once, where
    D passes of the network would compute each D times. `genkern.nn.MADE` has the arguments.

    Args:
        z: ``[B, D]``.
        weight: the network's weights one after the other, ``[H_1, D]``, ``[H_2, H_1]``, ..., ``[2 * D, H_L]``, flat.
            What the degrees leave out is not read.
        bias: ``[H_1 + ... + H_L + 2 * D]``; of the outputs, raw scales first, then shifts.
        hidden: ``(H_1, ..., H_L)``.
        starts: for each hidden layer D + 1 numbers: how many of its units have a degree below k = 0, ..., D. Units are
            sorted by degree.
        order: element ``order[k]`` comes at step k.
        offset: ``[B, H_1]``, added to the first hidden layer: a context's part.
        activation: ``"relu"``, ``"tanh"`` or ``"elu"``.
        residual: layers 3, 5, ... add the layer two below, before the activation.
        scale: ``l`` of a raw scale s: ``"exp"``, s; ``"tanh"``, :math:`c \tanh(s / c)`; ``"sigmoid"``,
            :math:`\log \sigma(s + 2)`; or ``"gated"``, which is that with the shift :math:`(1 - \sigma(s + 2))\, t`.
        bound: ``c``.
        standardize: solve ``z = (x - t) e^-l`` instead; the log-determinant changes sign.
        impl: ``"auto"``, or ``"torch"`` for the definition.

    Returns:
        ``x`` like ``z``, and ``log_det`` in nats, ``[B]``, float32 or wider.

    Raises:
        ValueError: if shapes, devices or names do not fit.
        TypeError: if a dtype is not float64, float32, bfloat16 or float16.

    First and second derivatives in ``z``, ``weight``, ``bias`` and ``offset``; CPU and CUDA; arithmetic in float32 or
    wider. Dtypes are promoted as in PyTorch. Papamakarios et al. 2017 (arXiv:1705.07057), section 3.1, and Kingma et
    al. 2016 (arXiv:1606.04934), eq. 14.

    >>> weight, bias = torch.zeros(4 * 2 + 4 * 4), torch.tensor([0.0] * 6 + [1.0, 2.0])
    >>> made_inverse(torch.ones(1, 2), weight, bias, hidden=[4], starts=[0, 0, 4], order=[0, 1])[0]
    tensor([[ 0., -1.]])
    """
    equal = len(hidden) % 2 == 1 and len(set(hidden)) == 1
    check(not residual or equal, "made_inverse", "hidden", "an odd number of equal sizes", tuple(hidden))
    z, weight, bias, offset = _check(z, weight, bias, offset, hidden, starts, order)
    check(activation in reference.ACTIVATIONS, "made_inverse", "activation", f"one of {tuple(reference.ACTIVATIONS)}",
          repr(activation))  # fmt: skip
    check_choice("made_inverse", "scale", scale, SCALES)
    check(0 < bound < math.inf, "made_inverse", "bound", "positive and finite", bound)
    wide = wide_dtype(z.dtype)
    x, log_det = _op(
        *(tensor.to(wide) for tensor in (z, weight, bias, offset)), list(hidden), list(starts), list(order),
        activation, residual, scale, float(bound), standardize, impl=impl,
    )  # fmt: skip
    return x.to(z.dtype), log_det


def _check(
    z: Tensor,
    weight: Tensor,
    bias: Tensor,
    offset: Tensor | None,
    hidden: Sequence[int],
    starts: Sequence[int],
    order: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    function = "made_inverse"
    given = {} if offset is None else {"offset": offset}
    z, weight, bias, *rest = promote(function, z=z, weight=weight, bias=bias, **given)
    check(z.dim() == 2 and z.shape[1] > 0, function, "z", "[B, D]", z.shape)
    features = z.shape[1]
    check(bool(hidden) and min(hidden) > 0, function, "hidden", "one positive size or more", tuple(hidden))
    pairs = zip((*hidden, 2 * features), (features, *hidden), strict=True)
    sizes = {"weight": (weight, sum(a * b for a, b in pairs)), "bias": (bias, sum(hidden) + 2 * features)}
    for name, (tensor, size) in sizes.items():
        wanted = f"[{size}] for D = {features} and hidden = {tuple(hidden)}"
        check(tensor.shape == (size,), function, name, wanted, tensor.shape)
    check(sorted(order) == list(range(features)), function, "order", f"a permutation of {features}", tuple(order))
    check(_fits(hidden, starts, features), function, "starts", "sorted, 0 to H_l in D + 1 numbers for each layer",
          tuple(starts))  # fmt: skip
    if offset is None:
        return z, weight, bias, z.new_zeros(z.shape[0], 0)
    wanted = f"[B, {hidden[0]}]"
    check(rest[0].shape == (z.shape[0], hidden[0]), function, "offset", wanted, (rest[0].shape, "z is", z.shape))
    return z, weight, bias, rest[0]


def _fits(hidden: Sequence[int], starts: Sequence[int], features: int) -> bool:
    if len(starts) != len(hidden) * (features + 1):
        return False
    for number, units in enumerate(hidden):
        layer = list(starts[number * (features + 1) : (number + 1) * (features + 1)])
        if layer[0] != 0 or layer[-1] != units or layer != sorted(layer):
            return False
    return True


__all__ = ["made_inverse"]
