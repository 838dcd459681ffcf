"""The forward process of diffusion: samples at their noise levels, in one read and one write, noise drawn inside."""

from __future__ import annotations

import torch
from torch import Tensor

from .._checks import check, check_floating, check_key, check_noise
from .._library import LIBRARY, _on_device, define_op
from ..random import key_from, normal
from . import noise as drawn
from . import reference
from .coefficients import check_timesteps, of_samples

_op = define_op(
    "q_sample",
    drawn.q_sample,
    schema="(Tensor x0, Tensor alpha, Tensor sigma, Tensor key, SymInt sample_offset) -> Tensor",
    differentiable=("x0", "alpha", "sigma"),
    selective=True,
    fake=lambda x0, alpha, sigma, key, sample_offset: torch.empty_like(x0),
)

# The same into memory that is there already, which may be that of x0.
LIBRARY.define(
    "q_sample_out(Tensor x0, Tensor alpha, Tensor sigma, Tensor key, SymInt sample_offset, Tensor(a!) out) -> ()",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def _definition_out(x0: Tensor, alpha: Tensor, sigma: Tensor, key: Tensor, sample_offset: int, out: Tensor) -> None:
    out.copy_(_op.reference(x0, alpha, sigma, key, sample_offset))


LIBRARY.impl("q_sample_out", _definition_out, "CompositeExplicitAutograd")
torch.library.register_fake("genkern::q_sample_out", lambda *_: None, lib=LIBRARY)
if "cuda" in _op.kernels:
    LIBRARY.impl("q_sample_out", _on_device(f"{__name__}.triton", "q_sample_out"), "CUDA")


def q_sample(
    x0: Tensor,
    alpha: Tensor | float,
    sigma: Tensor | float,
    *,
    timesteps: Tensor | None = None,
    key: Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    sample_offset: int = 0,
    out: Tensor | None = None,
    impl: str = "auto",
) -> Tensor:
    r"""Takes samples to their noise levels.

    .. math:: x_t = \alpha_t x_0 + \sigma_t \epsilon, \qquad \epsilon \sim \mathcal{N}(0, 1)

    For a variance-preserving process :math:`\alpha_t = \sqrt{\bar\alpha_t}` and
    :math:`\sigma_t = \sqrt{1 - \bar\alpha_t}`; for a variance-exploding one :math:`\alpha_t = 1`.

    Args:
        x0: ``[B, *]``.
        alpha, sigma: of each sample, ``[B]`` or ``[]`` or numbers; with ``timesteps``, tables ``[T]``. Tables are best
            computed in float64: they are rounded once.
        timesteps: indices into the tables, ``[B]``, int64 or int32.
        key: of the noise, from `genkern.random`; None: one is drawn from ``generator``.
        generator: None: the default generator of the device of ``x0``.
        noise: :math:`\epsilon` like ``x0``, in place of what would be drawn; in plain PyTorch.
        sample_offset: index of the first sample, where this is a part of a larger batch.
        out: like ``x0``, and possibly ``x0`` itself: the result is written there. No derivative.
        impl: ``"auto"``, or ``"torch"`` for the definition.

    Returns:
        :math:`x_t` like ``x0``. Nothing is kept of the noise: derivatives draw it again, and so does `diffusion_loss`
        from the same key.

    Raises:
        ValueError, TypeError: if an argument cannot be used.

    First and second derivatives in ``x0``, ``alpha`` and ``sigma``; CPU and CUDA draw the same noise, that of
    ``genkern.random.normal(key, x0.shape)``, and nothing is read by the host. Ho et al. 2020 (arXiv:2006.11239), eq. 4.

    >>> from genkern import random
    >>> x0, key = torch.zeros(4, 3, 8, 8), random.key(0)
    >>> x_t = q_sample(x0, 0.6, 0.8, key=key)
    >>> torch.equal(x_t, 0.8 * random.normal(key, x0.shape))
    True
    """
    check(impl in ("auto", "torch"), "q_sample", "impl", "'auto' or 'torch'", repr(impl))
    check_floating("q_sample", "x0", x0)
    check(x0.dim() >= 1, "q_sample", "x0", "[B, *]", x0.shape)
    check(sample_offset >= 0, "q_sample", "sample_offset", "at least 0", sample_offset)
    check_timesteps("q_sample", timesteps, x0)
    alpha = of_samples("q_sample", "alpha", alpha, x0, timesteps)
    sigma = of_samples("q_sample", "sigma", sigma, x0, timesteps)
    if noise is not None:
        check_noise("q_sample", noise, "x0", x0)
    if out is not None:
        _check_out(out, x0, alpha, sigma, noise)
    if noise is not None:
        check(key is None and generator is None, "q_sample", "noise", "alone, without key or generator", "both")
    else:
        key = key_from(generator, device=x0.device) if key is None else key
        check_key("q_sample", key, x0.device)
        if out is not None and impl == "auto":
            torch.ops.genkern.q_sample_out(x0, alpha, sigma, key, sample_offset, out)
            return out
        if impl == "auto":
            return _op(x0, alpha, sigma, key, sample_offset)
        noise = normal(key, x0.shape, sample_offset=sample_offset)
    x_t = reference.q_sample(x0.to(alpha.dtype), alpha, sigma, noise.to(alpha.dtype)).to(x0.dtype)
    return x_t if out is None else out.copy_(x_t)


def _check_out(out: Tensor, x0: Tensor, alpha: Tensor, sigma: Tensor, noise: Tensor | None) -> None:
    check(isinstance(out, Tensor), "q_sample", "out", "a tensor", type(out).__name__, TypeError)
    like = out.shape == x0.shape and out.dtype == x0.dtype and out.device == x0.device
    check(like, "q_sample", "out", f"like x0: {x0.dtype} {list(x0.shape)} on {x0.device}",
          f"{out.dtype} {list(out.shape)} on {out.device}")  # fmt: skip
    inputs = [value for value in (x0, alpha, sigma, noise, out) if value is not None]
    differentiated = torch.is_grad_enabled() and any(value.requires_grad for value in inputs)
    check(not differentiated, "q_sample", "out", "None where a gradient is needed", "a tensor")


__all__ = ["q_sample"]
