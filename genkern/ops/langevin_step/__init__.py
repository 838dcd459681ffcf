"""Langevin dynamics: a step with its noise drawn inside, and the corrector whose step size follows from norms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._checks import check, check_key, check_noise, promote
from .._library import LIBRARY, define_op, wide_dtype
from ..random import key_from, normal
from . import noise as drawn
from . import reference

Coefficient = float | Tensor

_ARGUMENTS = (
    "Tensor x, Tensor grad, Tensor key, Tensor? step, Tensor? scale, float step_number, float scale_number,"
    " float? clamp_grad, float? low, float? high, bool noise_first, SymInt sample_offset"
)
_step = define_op(
    "langevin_step",
    drawn.langevin_step,
    schema=f"({_ARGUMENTS}) -> Tensor",
    differentiable=("x", "grad"),
    fake=drawn.fake_step,
)
_norms = define_op(
    "langevin_norms",
    drawn.langevin_norms,
    schema="(Tensor grad, Tensor key, SymInt sample_offset) -> (Tensor, Tensor)",
    wide=(0, 1),
    fake=drawn.fake_norms,
)

# The same step into a tensor that is there already, which may be x or grad.
LIBRARY.define(f"langevin_step_out({_ARGUMENTS}, Tensor(a!) out) -> ()", tags=(torch.Tag.pt2_compliant_tag,))
_step_out = torch.ops.genkern.langevin_step_out.default


def _into(*args: Any) -> None:
    args[-1].copy_(_step.reference(*args[:-1]))


LIBRARY.impl("langevin_step_out", _into, "CompositeExplicitAutograd")
torch.library.register_fake("genkern::langevin_step_out", lambda *args: None, lib=LIBRARY)


def langevin_step(
    x: Tensor,
    grad: Tensor,
    step: Coefficient,
    scale: Coefficient | None = None,
    *,
    key: Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    sample_offset: int = 0,
    clamp_grad: float | None = None,
    clamp: tuple[float | None, float | None] | None = None,
    order: str = "noise-last",
    out: Tensor | None = None,
    impl: str = "auto",
) -> Tensor:
    r"""A step along the score, and Gaussian noise that is drawn where it is added and never stored.

    .. math:: x' = x + a\, s(x) + b\, z, \qquad z \sim N(0, 1)

    With :math:`b = \sqrt{2a}`, the default, the chain draws from the density whose score is :math:`s`; another
    :math:`b` draws at temperature :math:`b^2 / 2a` (IGEBM: 10 and 0.005, JEM: 1 and 0.01).

    With ``order="noise-first"`` noise comes before the gradient of a step. So that every step stays one pass, what is
    added is the noise of the *next* step: :math:`x' = \mathrm{clamp}(x + a\, s(x)) + b\, z`. A chain begins with a
    call with ``step=0`` and ends with one with ``scale=0``.

    Args:
        x: states, ``[B, *]``.
        grad: the score :math:`s = \nabla \log p` (or :math:`-\nabla E`) at ``x``, like ``x``.
        step: :math:`a`, a number, or a tensor, ``[]`` or ``[B]``, on the device: nothing is read back to the host.
        scale: :math:`b`, likewise; None: :math:`\sqrt{2a}`; 0 draws nothing.
        key: of the noise, that of ``genkern.random.normal(key, x.shape)``; None: one is drawn from ``generator``. A
            chain takes ``fold_in(key, i)`` for its step ``i``.
        generator: None: the default generator of the device of ``x``.
        noise: :math:`z` like ``x``, in place of what would be drawn; in plain PyTorch.
        sample_offset: number of the first sample, where this is a part of a larger batch.
        clamp_grad: bound of every element of ``grad`` (IGEBM: 0.01); None: none.
        clamp: bounds ``(low, high)`` of the result, either of them may be None; before the noise when that is first.
        order: ``"noise-last"``, or ``"noise-first"``.
        out: a tensor for the result, like ``x``: may be ``x`` itself, for a step in place; without derivatives.
        impl: ``"auto"``, or ``"torch"`` for the definition.

    Returns:
        The next states, like ``x`` and contiguous, or ``out``.

    Raises:
        ValueError, TypeError: if an argument cannot be used.

    First and second derivatives in ``x`` and ``grad``; in ``step`` and ``scale`` too, in plain PyTorch. CPU and CUDA
    draw the same noise, whatever the batch is split into; float64, float32, bfloat16, float16.
    Welling & Teh 2011; Song & Ermon 2019 (arXiv:1907.05600), algorithm 1; Du & Mordatch 2019 (arXiv:1903.08689).

    >>> from genkern import random
    >>> x = torch.zeros(4, 2)
    >>> for i in range(100):
    ...     x = langevin_step(x, -x, 0.1, key=random.fold_in(random.key(0), i))  # towards N(0, 1)
    """
    x, grad = promote("langevin_step", x=x, grad=grad)
    check(x.dim() >= 1, "langevin_step", "x", "[B, *]", x.shape)
    if grad.shape != x.shape:
        check(False, "langevin_step", "grad", f"of the shape of x {list(x.shape)}", grad.shape)
    if order not in ("noise-last", "noise-first"):
        check(False, "langevin_step", "order", "'noise-last' or 'noise-first'", repr(order))
    if clamp_grad is not None:
        check(clamp_grad >= 0, "langevin_step", "clamp_grad", "None or at least 0", clamp_grad)
    check(sample_offset >= 0, "langevin_step", "sample_offset", "at least 0", sample_offset)
    low, high = None, None
    if clamp is not None:
        pair = isinstance(clamp, tuple | list) and len(clamp) == 2
        check(pair, "langevin_step", "clamp", "None or a pair (low, high)", clamp)
        low, high = (None if bound is None else float(bound) for bound in clamp)
        check(low is None or high is None or low <= high, "langevin_step", "clamp", "(low, high) in order", clamp)
    a = _coefficient("step", step, x)
    b = _coefficient("scale", _doubled_root("langevin_step", a) if scale is None else scale, x)
    bounds = (clamp_grad, low, high, order == "noise-first")
    if noise is not None:
        check(key is None and generator is None, "langevin_step", "noise", "alone, without key or generator", "both")
        check_noise("langevin_step", noise, "x", x)
    else:
        if key is None:
            key = key_from(generator, device=x.device)
        check_key("langevin_step", key, x.device)
    tensors = [value for value in (a, b) if isinstance(value, Tensor)]
    if out is not None:
        _check_out(out, x, grad, *tensors)
    if noise is not None or (tensors and any(value.requires_grad for value in tensors)):
        z = normal(key, x.shape, sample_offset=sample_offset) if noise is None else noise  # type: ignore[arg-type]
        y = _plain(x, grad, z, a, b, bounds)
        return y if out is None else out.copy_(y)
    number_a, each_a = (0.0, a.expand(x.shape[0])) if isinstance(a, Tensor) else (a, None)
    number_b, each_b = (0.0, b.expand(x.shape[0])) if isinstance(b, Tensor) else (b, None)
    args = (x, grad, key, each_a, each_b, number_a, number_b, *bounds, sample_offset)
    if out is None:
        return _step(x.contiguous(), grad.contiguous(), *args[2:], impl=impl)
    if impl == "torch" or x.device.type not in _step.kernels:
        return out.copy_(_step(*args, impl=impl))
    with torch.no_grad():
        _step_out(*args, out)
    return out


def langevin_snr_step(
    x: Tensor,
    grad: Tensor,
    snr: float,
    alpha: Coefficient = 1.0,
    *,
    key: Tensor | None = None,
    generator: torch.Generator | None = None,
    sample_offset: int = 0,
    per_sample: bool = False,
    out: Tensor | None = None,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    r"""The corrector of a predictor-corrector sampler: a Langevin step as long as a signal-to-noise ratio asks for.

    .. math:: a = 2 \alpha \left( r\, \frac{\lVert z \rVert}{\lVert s \rVert} \right)^2, \qquad
              x' = x + a\, s + \sqrt{2a}\, z

    Two passes: the norms, for which the noise is drawn and dropped, then the step, for which it is drawn again.

    Args:
        x, grad: states and score, ``[B, *]``.
        snr: :math:`r` (0.16 for VE on CIFAR-10).
        alpha: :math:`\alpha`: 1 for VE, :math:`1 - \beta_t` for VP; a number, or a tensor ``[]`` or ``[B]``.
        key, generator, sample_offset, out, impl: see `langevin_step`.
        per_sample: each sample has its own norms, and does not depend on its neighbours. By default norms are averaged
            over the batch, as in the paper's code: a sample then depends on the others in its batch.

    Returns:
        The next states, like ``x``, and the step sizes :math:`a`, ``[B]``, float32 or wider: the mean of the step is
        ``x + a * grad``.

    Raises:
        ValueError, TypeError: if an argument cannot be used.

    The step size is a constant to autograd. Song et al. 2021 (arXiv:2011.13456), algorithms 4 and 5.

    >>> x, step = langevin_snr_step(torch.zeros(8, 2), torch.ones(8, 2), 0.16)
    >>> step.shape
    torch.Size([8])
    """
    x, grad = promote("langevin_snr_step", x=x, grad=grad)
    check(x.dim() >= 1, "langevin_snr_step", "x", "[B, *]", x.shape)
    check(grad.shape == x.shape, "langevin_snr_step", "grad", f"of the shape of x {list(x.shape)}", grad.shape)
    check(snr > 0, "langevin_snr_step", "snr", "positive", snr)
    check(sample_offset >= 0, "langevin_snr_step", "sample_offset", "at least 0", sample_offset)
    alpha = _coefficient("alpha", alpha, x, "langevin_snr_step")
    if key is None:
        key = key_from(generator, device=x.device)
    check_key("langevin_snr_step", key, x.device)
    grad_norm, noise_norm = _norms(grad.detach(), key, sample_offset, impl=impl)
    if not per_sample:
        grad_norm, noise_norm = grad_norm.mean(), noise_norm.mean()
    step = ((snr * noise_norm / grad_norm).square() * (2 * alpha)).expand(x.shape[0])
    scale = (2 * step).sqrt()
    return langevin_step(x, grad, step, scale, key=key, sample_offset=sample_offset, out=out, impl=impl), step


def _doubled_root(function: str, step: Coefficient) -> Coefficient:
    if isinstance(step, Tensor):
        return (2 * step).sqrt()
    check(step >= 0, function, "step", "at least 0 where scale is None", step)
    return (2 * step) ** 0.5


def _coefficient(argument: str, value: Coefficient, x: Tensor, function: str = "langevin_step") -> Coefficient:
    """A float, or a tensor in the arithmetic type."""
    if not isinstance(value, Tensor):
        if not isinstance(value, int | float):
            number = hasattr(value, "__float__")
            check(number, function, argument, "a tensor or a number", type(value).__name__, TypeError)
        return float(value)
    check(value.is_floating_point(), function, argument, "a floating tensor", value.dtype, TypeError)
    check(value.device == x.device, function, argument, f"on {x.device}", value.device)
    fits = value.dim() == 0 or tuple(value.shape) == (x.shape[0],)
    check(fits, function, argument, f"[] or [B] = [{x.shape[0]}]", value.shape)
    return value.to(wide_dtype(x.dtype))


def _plain(x: Tensor, grad: Tensor, z: Tensor, a: Coefficient, b: Coefficient, bounds: tuple[Any, ...]) -> Tensor:
    wide = wide_dtype(x.dtype)
    return reference.langevin_step(x.to(wide), grad.to(wide), z.to(wide), a, b, *bounds).to(x.dtype)


def _check_out(out: Tensor, x: Tensor, *inputs: Tensor) -> None:
    function = "langevin_step"
    check(isinstance(out, Tensor), function, "out", "a tensor", type(out).__name__, TypeError)
    fits = out.shape == x.shape and out.dtype == x.dtype and out.device == x.device
    check(fits, function, "out", f"like x ({x.dtype} {list(x.shape)})", f"{out.dtype} {list(out.shape)}")
    graph = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (out, x, *inputs))
    check(not graph, function, "out", "None where a gradient is wanted", "a tensor")


__all__ = ["langevin_snr_step", "langevin_step"]
