"""Divergence of two diagonal Gaussians, summed over each sample, in one read."""

from __future__ import annotations

from torch import Tensor

from .._checks import broadcasts, check, promote
from .._library import define_op, wide_dtype
from . import reference

_op = define_op(
    "gaussian_kl",
    reference.gaussian_kl,
    schema="(Tensor mean, Tensor logvar, Tensor prior_mean, Tensor prior_logvar) -> Tensor",
    differentiable=("mean", "logvar", "prior_mean", "prior_logvar"),
    selective=True,
    wide=(0,),
    fake=lambda mean, *_: mean.new_empty(mean.shape[:1], dtype=wide_dtype(mean.dtype)),
)


def gaussian_kl(
    mean: Tensor,
    logvar: Tensor,
    prior_mean: Tensor | float = 0.0,
    prior_logvar: Tensor | float = 0.0,
    *,
    impl: str = "auto",
) -> Tensor:
    r"""Kullback-Leibler divergence of two diagonal Gaussians, summed over all dimensions but the first.

    .. math:: \mathrm{KL}\left( \mathcal{N}(m, e^{v}) \,\Vert\, \mathcal{N}(n, e^{w}) \right)
              = \tfrac12 \sum e^{d} - 1 - d + (m - n)^2 e^{-w}, \qquad d = v - w

    The terms of a discrete diffusion model's bound and of a variational autoencoder's; `vlb_term` makes the Gaussians
    of a diffusion step itself, and `reparameterize` draws from the first one, too.

    Args:
        mean: :math:`m`, ``[B, *]``.
        logvar: :math:`v`, the logarithm of the variance, of the shape of ``mean`` or one that broadcasts to it.
        prior_mean: :math:`n`, likewise, or a number.
        prior_logvar: :math:`w`, likewise. The defaults are the standard normal.
        impl: ``"auto"``, or ``"torch"`` for the definition.

    Returns:
        The divergence in nats, ``[B]``, float32 or wider whatever the dtype; ``bits_per_dim(-kl, mean[0].numel())``
        turns it into bits per dimension.

    Raises:
        ValueError, TypeError: if an argument cannot be used.

    First and second derivatives in all four; CPU and CUDA; float64, float32, bfloat16, float16, promoted as in
    PyTorch. Log-variances of ±100 give no NaN: within exponentials :math:`d` is at most 80 and :math:`w` at least -80.
    Where the Gaussians are nearly the same, the digits of :math:`e^d - 1 - d` are kept. Kingma & Welling 2014
    (arXiv:1312.6114), appendix B; Ho et al. 2020 (arXiv:2006.11239), eq. 5.

    >>> gaussian_kl(torch.ones(2, 4), torch.zeros(2, 4))
    tensor([2., 2.])
    """
    given = {"mean": mean, "logvar": logvar, "prior_mean": prior_mean, "prior_logvar": prior_logvar}
    named = {name: value for name, value in given.items() if isinstance(value, Tensor) or name in ("mean", "logvar")}
    mean, *rest = promote("gaussian_kl", **named)  # type: ignore[arg-type]
    tensors: dict[str, Tensor] = dict(zip(named, (mean, *rest), strict=True))
    check(mean.dim() >= 1, "gaussian_kl", "mean", "[B, *]", mean.shape)
    full = [mean]
    for name in ("logvar", "prior_mean", "prior_logvar"):
        value = tensors.get(name)
        if value is None:
            number = given[name]
            check(isinstance(number, int | float), "gaussian_kl", name, "a tensor or a number", type(number).__name__,
                  TypeError)  # fmt: skip
            value = mean.new_full((), float(number))  # type: ignore[arg-type]
        if value.shape != mean.shape:
            fits = broadcasts(value.shape, mean.shape)
            check(fits, "gaussian_kl", name, "broadcastable to mean", (value.shape, "mean is", mean.shape))
            value = value.expand_as(mean)
        full.append(value)
    return _op(*full, impl=impl)


__all__ = ["gaussian_kl"]
