"""The loss of a denoising network, its target made where it is needed: noise is drawn again, never stored."""

from __future__ import annotations

from torch import Tensor

from .._checks import check, check_choice, check_key, check_noise, promote
from .._library import define_op, wide_dtype
from ..q_sample.coefficients import check_timesteps, of_samples
from ..random import normal
from . import noise as drawn
from . import reference

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")

_op = define_op(
    "diffusion_loss",
    drawn.diffusion_loss,
    schema="(Tensor output, Tensor x0, Tensor of_x0, Tensor of_noise, Tensor key, SymInt sample_offset) -> Tensor",
    differentiable=("output", "x0", "of_x0", "of_noise"),
    selective=True,
    wide=(0,),
    fake=lambda output, *_: output.new_empty(output.shape[:1], dtype=wide_dtype(output.dtype)),
)


def diffusion_loss(
    output: Tensor,
    x0: Tensor,
    alpha: Tensor | float | None = None,
    sigma: Tensor | float | None = None,
    *,
    prediction_type: str = "epsilon",
    target: tuple[Tensor | float, Tensor | float] | None = None,
    weight: Tensor | float | None = None,
    timesteps: Tensor | None = None,
    key: Tensor | None = None,
    noise: Tensor | None = None,
    sample_offset: int = 0,
    impl: str = "auto",
) -> Tensor:
    r"""Weighted mean squared error of a denoising network, of each sample.

    .. math:: \ell = \frac{w}{D} \sum \left( f - (p\, x_0 + q\, \epsilon) \right)^2

    with the same :math:`\epsilon` as ``q_sample(x0, alpha, sigma, key=key)``, drawn again:

    =================== ==================================== =============================
    ``prediction_type`` target                               ``(p, q)``
    =================== ==================================== =============================
    ``"epsilon"``       :math:`\epsilon`                     ``(0, 1)``
    ``"v_prediction"``  :math:`\alpha\epsilon - \sigma x_0`  ``(-sigma, alpha)``
    ``"sample"``        :math:`x_0`                          ``(1, 0)``
    =================== ==================================== =============================

    Args:
        output: :math:`f(x_t, t)`, ``[B, *]``.
        x0: like ``output``.
        alpha, sigma: those of `q_sample`; only ``"v_prediction"`` needs them.
        prediction_type: what the network predicts.
        target: ``(p, q)`` of any other target, each ``[B]``, ``[]`` or a number, in place of ``prediction_type``;
            that of denoising score matching is ``(0, -1 / sigma)``.
        weight: :math:`w`, ``[B]``, ``[]`` or a number; None: 1.
        timesteps: ``[B]``; ``alpha``, ``sigma``, ``target`` and ``weight`` are then tables ``[T]`` or numbers.
        key: that of `q_sample`.
        noise: :math:`\epsilon` like ``x0``, in place of ``key``; in plain PyTorch.
        sample_offset: index of the first sample, where this is a part of a larger batch.
        impl: ``"auto"``, or ``"torch"`` for the definition.

    Returns:
        The loss of each sample, ``[B]``, float32 or wider whatever the dtype of ``output``; means over the batch are
        the caller's.

    Raises:
        ValueError, TypeError: if an argument cannot be used.

    Noise is drawn in the forward and once more in the backward pass, which is most of the time of both: a training step
    takes about as long as compiled code that draws it once, keeps it, and holds a tensor of the size of ``x0`` for it.

    First and second derivatives in ``output``, ``x0`` and all coefficients; CPU and CUDA. Ho et al. 2020
    (arXiv:2006.11239), eq. 14; v of Salimans & Ho 2022 (arXiv:2202.00512), appendix D.

    >>> from genkern import random
    >>> x0, key = torch.zeros(4, 3, 8, 8), random.key(0)
    >>> diffusion_loss(random.normal(key, x0.shape), x0, key=key)
    tensor([0., 0., 0., 0.])
    """
    check(impl in ("auto", "torch"), "diffusion_loss", "impl", "'auto' or 'torch'", repr(impl))
    output, x0 = promote("diffusion_loss", output=output, x0=x0)
    check(output.dim() >= 1, "diffusion_loss", "output", "[B, *]", output.shape)
    check(x0.shape == output.shape, "diffusion_loss", "x0", f"of the shape of output {list(output.shape)}", x0.shape)
    check(sample_offset >= 0, "diffusion_loss", "sample_offset", "at least 0", sample_offset)
    check_timesteps("diffusion_loss", timesteps, output)
    check((key is None) != (noise is None), "diffusion_loss", "key", "given, or noise, and not both",
          "neither" if key is None else "both")  # fmt: skip

    of_x0, of_noise = _target(output, alpha, sigma, prediction_type, target, timesteps)
    if noise is None:
        check_key("diffusion_loss", key, output.device)  # type: ignore[arg-type]
    if noise is not None or impl == "torch":
        if noise is None:
            noise = normal(key, output.shape, sample_offset=sample_offset)  # type: ignore[arg-type]
        check_noise("diffusion_loss", noise, "output", output)
        output, x0, noise = (tensor.to(of_x0.dtype) for tensor in (output, x0, noise))
        loss = reference.diffusion_loss(output, x0, of_x0, of_noise, noise)
    else:
        loss = _op(output, x0, of_x0, of_noise, key, sample_offset)
    return loss if weight is None else loss * _coefficient(output, "weight", weight, timesteps)


def _coefficient(output: Tensor, argument: str, value: Tensor | float, timesteps: Tensor | None) -> Tensor:
    return of_samples("diffusion_loss", argument, value, output, timesteps)


def _target(
    output: Tensor,
    alpha: Tensor | float | None,
    sigma: Tensor | float | None,
    prediction_type: str,
    target: tuple[Tensor | float, Tensor | float] | None,
    timesteps: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Coefficients of x0 and of the noise, [B] each."""
    if target is not None:
        pair = isinstance(target, tuple) and len(target) == 2
        check(pair, "diffusion_loss", "target", "a pair (p, q)", target)
        return _coefficient(output, "target", target[0], timesteps), _coefficient(
            output, "target", target[1], timesteps
        )
    check_choice("diffusion_loss", "prediction_type", prediction_type, PREDICTION_TYPES)
    if prediction_type == "v_prediction":
        for name, value in (("alpha", alpha), ("sigma", sigma)):
            check(value is not None, "diffusion_loss", name, "given for v_prediction", value)
        return (
            -_coefficient(output, "sigma", sigma, timesteps),  # type: ignore[arg-type]
            _coefficient(output, "alpha", alpha, timesteps),  # type: ignore[arg-type]
        )
    zero = output.new_zeros(output.shape[0], dtype=wide_dtype(output.dtype))
    return (zero, zero + 1) if prediction_type == "epsilon" else (zero + 1, zero)


__all__ = ["diffusion_loss"]
