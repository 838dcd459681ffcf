"""Draws of diagonal Gaussian posteriors with their divergence from a prior: noise inside, one pass, nothing stored."""

from __future__ import annotations

import torch
from torch import Tensor

from .._checks import broadcasts, check, check_choice, check_key, promote
from .._library import define_op, wide_dtype
from ..random import key_from
from . import noise as drawn

KL = ("sample", "element")


def _fake(mean: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
    shape = mean.shape if rest[-2] else mean.shape[:1]
    return mean.new_empty(mean.shape), mean.new_empty(shape, dtype=wide_dtype(mean.dtype))


_unit = define_op(
    "reparameterize",
    drawn.reparameterize,
    schema="(Tensor mean, Tensor logvar, Tensor key, bool per_element, SymInt sample_offset) -> (Tensor, Tensor)",
    differentiable=("mean", "logvar"),
    wide=(1,),
    fake=_fake,
)
_prior = define_op(
    "reparameterize_prior",
    drawn.reparameterize_prior,
    schema="(Tensor mean, Tensor logvar, Tensor prior_mean, Tensor prior_logvar, Tensor key, bool per_element,"
    " SymInt sample_offset) -> (Tensor, Tensor)",
    differentiable=("mean", "logvar", "prior_mean", "prior_logvar"),
    wide=(1,),
    fake=_fake,
)


def reparameterize(
    mean: Tensor,
    logvar: Tensor,
    prior_mean: Tensor | None = None,
    prior_logvar: Tensor | None = None,
    *,
    kl: str = "sample",
    key: Tensor | None = None,
    generator: torch.Generator | None = None,
    sample_offset: int = 0,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    r"""Draws ``z`` from a diagonal Gaussian posterior, differentiably, with its divergence from the prior.

    .. math:: z = \mu + e^{v/2} \odot n, \qquad
              \mathrm{KL} = \tfrac12 \sum (\mu - \mu')^2 e^{-v'} + e^{v - v'} - 1 - (v - v')

    with noise :math:`n` of the key, the same as ``genkern.random.normal(key, mean.shape)``, drawn in the kernel and
    again in the backward pass: nothing is saved but the inputs. Above 60, a variance (or a ratio of variances) of
    1e26, exponentials go on as their tangents, so that a log-variance of ±100 has finite values and gradients.

    Args:
        mean: :math:`\mu`, ``[B, *]``.
        logvar: :math:`v`, the logarithm of the variance, ``[B, *]``.
        prior_mean: :math:`\mu'`, of a shape that broadcasts to that of ``mean``; None: 0.
        prior_logvar: :math:`v'`, likewise; None: 0. With neither, the unit prior.
        kl: ``"sample"``, the divergence of every sample, or ``"element"``, of every element (for free bits).
        key: of the noise, from `genkern.random`; None: one is drawn from ``generator``.
        generator: None: the default generator of the device of ``mean``.
        sample_offset: index of the first sample, where this is a part of a larger batch.
        impl: ``"auto"``, or ``"torch"`` for the definition.

    Returns:
        ``z`` like ``mean``, contiguous, and the divergence in nats, ``[B]`` or ``[B, *]``, float32 or wider.

    Raises:
        ValueError, TypeError: if an argument cannot be used.

    First and second derivatives in all parameters; CPU and CUDA; dtypes are promoted as in PyTorch.
    Kingma & Welling 2014 (arXiv:1312.6114), section 2.4 and appendix B.

    >>> z, kl = reparameterize(torch.zeros(8, 4), torch.zeros(8, 4))
    >>> kl
    tensor([0., 0., 0., 0., 0., 0., 0., 0.])
    """
    name = "reparameterize"
    given = {"prior_mean": prior_mean, "prior_logvar": prior_logvar}
    mean, logvar, *parameters = promote(
        name, mean=mean, logvar=logvar, **{k: v for k, v in given.items() if v is not None}
    )
    check(mean.dim() >= 1, name, "mean", "[B, *]", mean.shape)
    check(logvar.shape == mean.shape, name, "logvar", "of the shape of mean", (logvar.shape, "mean is", mean.shape))
    for argument, value in given.items():
        if value is not None:
            fits = broadcasts(value.shape, mean.shape)
            check(fits, name, argument, "broadcastable to mean", (value.shape, "mean is", mean.shape))
    check_choice(name, "kl", kl, KL)
    check(sample_offset >= 0, name, "sample_offset", "at least 0", sample_offset)
    if key is None:
        key = key_from(generator, device=mean.device)
    check_key(name, key, mean.device)
    if not parameters:
        return _unit(mean, logvar, key, kl == "element", sample_offset, impl=impl)
    full = iter(parameter.expand_as(mean) for parameter in parameters)
    prior = [mean.new_zeros(()).expand_as(mean) if value is None else next(full) for value in given.values()]
    return _prior(mean, logvar, *prior, key, kl == "element", sample_offset, impl=impl)


__all__ = ["reparameterize"]
