"""Batch normalisation as a layer of a flow: with its log-determinant, and invertible in evaluation."""

from __future__ import annotations

import torch
from torch import Tensor

from .._checks import check
from .._library import define_op
from ..actnorm import channel_affine, per_channel
from . import reference

_statistics = define_op(
    "flow_batch_norm_statistics",
    reference.statistics,
    schema="(Tensor x) -> (Tensor, Tensor)",
    wide=(0, 1),
)

_op = define_op(
    "flow_batch_norm",
    reference.flow_batch_norm,
    schema="(Tensor x, Tensor log_scale, Tensor bias, Tensor mean, Tensor variance, float eps) -> (Tensor, Tensor)",
    differentiable=("x", "log_scale", "bias"),
    wide=(1,),
    selective=True,
)


def flow_batch_norm(
    x: Tensor,
    log_scale: Tensor,
    bias: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
    inverse: bool = False,
    statistics: tuple[Tensor, Tensor, int] | None = None,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    r"""Normalises each channel, by the batch in training and by running statistics in evaluation.

    .. math:: y = e^{s} \odot \frac{x - \mu}{\sqrt{v + \epsilon}} + b, \qquad
              \log\lvert\det J\rvert = \text{sites} \cdot \sum_c \left(s_c - \tfrac12 \ln(v_c + \epsilon)\right)

    In training the log-determinant is that of the map with :math:`\mu` and :math:`v` held, as in the paper; gradients
    go through both.

    Args:
        x: input, ``[B, C, *]`` with ``sites`` elements in ``*``; any dense order of dimensions is read as it lies.
        log_scale: ``s``, ``[C]``.
        bias: ``b``, ``[C]``.
        running_mean: ``[C]``, starts at 0; changed in place in training, where it may be None.
        running_var: ``[C]``, starts at 1; likewise, by the unbiased variance of the batch.
        training: use the mean and biased variance of this batch, and move the running ones towards them.
        momentum: weight of this batch in the running statistics.
        eps: added to the variance.
        inverse: solve for ``x`` instead, in evaluation only; the log-determinant changes sign.
        statistics: in training, ``(mean, variance, count)`` of a batch that is spread over processes: ``[C]``, biased,
            computed from ``x`` with gradients (all-reduced sums, say), and the number of values for each channel.
        impl: ``"auto"``, or ``"torch"`` for the definition.

    Returns:
        ``y`` like ``x``, and ``log_det`` in nats, ``[B]``, float32 or wider.

    Raises:
        ValueError: if shapes or devices do not fit, if there is one value for each channel in training, if running
            statistics are missing in evaluation, or if the inverse is asked for in training.
        TypeError: if a dtype is not float64, float32, bfloat16 or float16.

    First and second derivatives; gradients that nobody asked for cost nothing. CPU and CUDA. Parameters are read in
    float32 whatever the dtype of ``x``; one in float64 makes everything float64.
    Dinh et al. 2017 (arXiv:1605.08803), section 3.7.

    >>> x = torch.tensor([[-1.0], [1.0]])
    >>> running = torch.zeros(1), torch.ones(1)
    >>> y, log_det = flow_batch_norm(x, torch.zeros(1), torch.ones(1), *running, training=True, eps=0.0)
    >>> y.flatten(), log_det, running
    (tensor([0., 2.]), tensor([0., 0.]), (tensor([0.]), tensor([1.1000])))
    """
    name = "flow_batch_norm"
    check(eps >= 0, name, "eps", "at least 0", eps)
    check(0 <= momentum <= 1, name, "momentum", "within [0, 1]", momentum)
    check(not (inverse and training), name, "training", "False for the inverse, which needs fixed statistics", training)
    check(training or statistics is None, name, "statistics", "None in evaluation", "a tuple")
    both = (running_mean is None) == (running_var is None)
    check(
        both, name, "running_var", "given exactly where running_mean is", "None" if running_var is None else "a tensor"
    )
    parameters = {"log_scale": log_scale, "bias": bias}
    if running_mean is not None and running_var is not None:
        running = {"running_mean": running_mean, "running_var": running_var}
        x, log_scale, bias, mean, variance = per_channel(name, x, **parameters, **running)
    else:
        check(training, name, "running_mean", "[C] in evaluation", None)
        x, log_scale, bias = per_channel(name, x, **parameters)
    if not training:
        scale = log_scale - torch.log(variance + eps) / 2
        return channel_affine(x, scale, -mean, bias, inverse, impl=impl)

    if statistics is None:
        count = x.numel() // max(x.shape[1], 1)
        check(count != 1, name, "x", "of more than one value for each channel in training", x.shape)
        mean, variance = _statistics(x.detach(), impl=impl)
        outputs = _op(x, log_scale, bias, mean, variance, float(eps), impl=impl)
    else:
        count = statistics[2]
        _, mean, variance = per_channel(name, x, mean=statistics[0], variance=statistics[1])
        outputs = channel_affine(x, log_scale - torch.log(variance + eps) / 2, -mean, bias, False, impl=impl)
    if running_mean is not None and running_var is not None and count > 0:
        _move(running_mean, mean, momentum)
        _move(running_var, variance * (count / max(count - 1, 1)), momentum)
    return outputs


def _move(running: Tensor, batch: Tensor, momentum: float) -> None:
    with torch.no_grad():
        running.lerp_(batch.detach().to(running.dtype), momentum)


__all__ = ["flow_batch_norm"]
