"""Likelihoods of diffusion models: Gaussians over the bins of pixels, and terms of the variational bound."""

from __future__ import annotations

import torch
from torch import Tensor

from .._checks import broadcasts, check, promote
from .._library import define_op, wide_dtype
from ..q_sample.coefficients import check_timesteps, rows_of
from . import reference
from .coefficients import vlb_coefficients

CDFS = ("tanh", "erf")


def _empty_sums(first: Tensor, *_: object) -> Tensor:
    return first.new_empty(first.shape[:1], dtype=wide_dtype(first.dtype))


_bins = define_op(
    "discretized_gaussian",
    reference.discretized_gaussian,
    schema="(Tensor x, Tensor mean, Tensor log_std, int levels, str cdf) -> Tensor",
    differentiable=("x", "mean", "log_std"),
    selective=True,
    wide=(0,),
    fake=_empty_sums,
)
_term = define_op(
    "vlb_term",
    reference.vlb_term,
    schema="(Tensor x0, Tensor x_t, Tensor output, Tensor variance, Tensor coefficients, bool clip, int levels,"
    " str cdf) -> Tensor",
    differentiable=("x0", "x_t", "output", "variance"),
    selective=True,
    wide=(0,),
    fake=_empty_sums,
)
_fixed_term = define_op(
    "vlb_term_fixed",
    reference.vlb_term_fixed,
    schema="(Tensor x0, Tensor x_t, Tensor output, Tensor coefficients, bool clip, int levels, str cdf) -> Tensor",
    differentiable=("x0", "x_t", "output"),
    selective=True,
    wide=(0,),
    fake=_empty_sums,
)


def discretized_gaussian(
    x: Tensor, mean: Tensor, log_std: Tensor, *, levels: int = 256, cdf: str = "erf", impl: str = "auto"
) -> Tensor:
    r"""Log-probability of pixels under a Gaussian that is summed over their bins.

    .. math:: \log P(x) = \sum \log \left( \Phi\!\left(\frac{x - m + h}{e^s}\right)
              - \Phi\!\left(\frac{x - m - h}{e^s}\right) \right), \qquad h = \frac{1}{L - 1}

    where the lowest level owns all that lies below it, and the highest all above.

    Args:
        x: pixels on [-1, 1], ``[B, *]``: level :math:`k` of :math:`L` is ``2 k / (L - 1) - 1``.
        mean: :math:`m`, of the shape of ``x`` or one that broadcasts to it.
        log_std: :math:`s`, likewise; one number for each sample is ``[B, 1, 1, 1]``. Below -20, where a bin is
            millions of standard deviations wide, the density stays as it is.
        levels: :math:`L`, 2 or more.
        cdf: ``"erf"``: exact, by erfc in whichever tail is small, with no floor; ``"tanh"``: an approximation of the
            normal distribution function, with no probability below 1e-12, as in improved-diffusion.
        impl: ``"auto"``, or ``"torch"`` for the definition.

    Returns:
        The log-probability in nats, ``[B]``, float32 or wider; ``bits_per_dim(log_prob, x[0].numel())`` turns it into
        bits per dimension.

    Raises:
        ValueError, TypeError: if an argument cannot be used.

    First and second derivatives in all three; CPU and CUDA. Dtypes are promoted as in PyTorch. A ``log_std`` of ±100
    gives finite values and gradients. Ho et al. 2020 (arXiv:2006.11239), eq. 13.

    >>> x = torch.linspace(-1, 1, 256).expand(2, 256)
    >>> each = torch.stack([discretized_gaussian(k, torch.tensor(0.3), torch.tensor(-1.0)) for k in x.T[:, :, None]])
    >>> torch.allclose(each.exp().sum(0), torch.ones(2))
    True
    """
    x, mean, log_std = promote("discretized_gaussian", x=x, mean=mean, log_std=log_std)
    check(x.dim() >= 1, "discretized_gaussian", "x", "[B, *]", x.shape)
    _check_bins("discretized_gaussian", levels, cdf)
    for name, value in (("mean", mean), ("log_std", log_std)):
        fits = broadcasts(value.shape, x.shape)
        check(fits, "discretized_gaussian", name, "broadcastable to x", (value.shape, "x is", x.shape))
    return _bins(x, mean.expand_as(x), log_std.expand_as(x), levels, cdf, impl=impl)


def vlb_term(
    x0: Tensor,
    x_t: Tensor,
    output: Tensor,
    coefficients: Tensor,
    *,
    timesteps: Tensor | None = None,
    variance: Tensor | None = None,
    clip_denoised: bool = True,
    levels: int = 256,
    cdf: str = "erf",
    impl: str = "auto",
) -> Tensor:
    r"""One term of the variational bound of a diffusion model, of each sample at its own step, in one read.

    .. math:: L_t = \mathrm{KL}\left( \mathcal{N}(\tilde\mu, \tilde\beta_t) \,\Vert\, \mathcal{N}(\mu, e^l) \right)
              = \tfrac12 \sum e^{d} - 1 - d + (\tilde\mu - \mu)^2 e^{-l}, \quad d = \ln \tilde\beta_t - l;
              \qquad L_0 = -\log P(x_0 | x_1)

    with :math:`\mu` the posterior mean at the network's estimate of :math:`x_0`, and :math:`L_0` the decoder's,
    `discretized_gaussian`.

    Args:
        x0: pixels on [-1, 1], ``[B, *]``.
        x_t: like ``x0``, from `q_sample`.
        output: the network's, like ``x0``.
        coefficients: of `vlb_coefficients`: ``[T, 8]`` with ``timesteps``, else one row for each sample, ``[B, 8]``.
        timesteps: ``[B]``, int64 or int32.
        variance: the network's raw output for the variance, like ``x0``: needed by ``"learned"`` and
            ``"learned_range"``, for which it is :math:`l` and :math:`v`, ``l = (v + 1) / 2 log beta + (1 - v) / 2 log
            beta~``; None: a fixed variance.
        clip_denoised: clip the estimate of :math:`x_0` to [-1, 1]: usual in evaluation, not in training.
        levels, cdf: as for `discretized_gaussian`; ``"tanh"`` for parity with improved-diffusion.
        impl: ``"auto"``, or ``"torch"`` for the definition.

    Returns:
        The sum over each sample in nats, ``[B]``, float32 or wider; ``bits_per_dim(-term, x0[0].numel())`` turns it
        into bits per dimension.

    Raises:
        ValueError, TypeError: if an argument cannot be used.

    First and second derivatives in ``x0``, ``x_t``, ``output`` and ``variance``; with ``impl="torch"`` in
    ``coefficients``, too. CPU and CUDA; nothing is read by the host. Improved DDPM detaches ``output`` here, and takes
    its gradient from `diffusion_loss`. Nichol & Dhariwal 2021 (arXiv:2102.09672), eq. 4-7 and 15-16.

    >>> table = vlb_coefficients(torch.linspace(0.999, 0.01, 10, dtype=torch.float64), prediction_type="sample")
    >>> x0, x_t = torch.zeros(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    >>> vlb_term(x0, x_t, x0, table, timesteps=torch.tensor([3, 9]))  # the right answer, and its own variance
    tensor([0., 0.])
    """
    given = {} if variance is None else {"variance": variance}
    x0, x_t, output, *rest = promote("vlb_term", x0=x0, x_t=x_t, output=output, **given)
    shape = x0.shape
    check(len(shape) >= 1, "vlb_term", "x0", "[B, *]", shape)
    if any(value.shape != shape for value in (x_t, output, *rest)):
        for name, value in zip(("x_t", "output", "variance"), (x_t, output, *rest), strict=False):
            check(value.shape == shape, "vlb_term", name, f"of the shape of x0 {list(shape)}", value.shape)
    _check_bins("vlb_term", levels, cdf)
    fits = isinstance(coefficients, Tensor) and coefficients.is_floating_point() and coefficients.shape[1:] == (8,)
    if timesteps is not None:
        check_timesteps("vlb_term", timesteps, x0)
    if not (fits and (timesteps is not None or len(coefficients) == shape[0])):
        rows, came = "T" if timesteps is not None else f"B = {shape[0]}", getattr(coefficients, "shape", None)
        came = type(coefficients).__name__ if came is None else came
        check(False, "vlb_term", "coefficients", f"a floating tensor [{rows}, 8]", came)
    if coefficients.device != x0.device:
        check(False, "vlb_term", "coefficients", f"on {x0.device}", coefficients.device)
    if coefficients.requires_grad:
        check(impl == "torch" or not torch.is_grad_enabled(), "vlb_term", "coefficients",
              "without gradient, or impl='torch'", "one that requires it")  # fmt: skip
    if timesteps is not None:
        coefficients = rows_of("vlb_term", "coefficients", coefficients, timesteps)
    coefficients = coefficients.to(wide_dtype(x0.dtype))
    op = _fixed_term if variance is None else _term
    return op(x0, x_t, output, *rest, coefficients, clip_denoised, levels, cdf, impl=impl)


def _check_bins(function: str, levels: int, cdf: str) -> None:
    check(isinstance(levels, int) and levels >= 2, function, "levels", "an int, at least 2", levels)
    if cdf not in CDFS:
        check(False, function, "cdf", f"one of {CDFS}", repr(cdf))


__all__ = ["discretized_gaussian", "vlb_coefficients", "vlb_term"]
