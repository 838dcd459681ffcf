"""One kernel for the steps of all diffusion samplers: an affine map with clipping, guidance and noise inside."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .._checks import check, check_floating, promote
from .._library import LIBRARY, define_op, wide_dtype
from ..random import key_from
from . import noise as drawn
from . import reference

# The columns of a row of coefficients, in order.
COLUMNS = ("x0_of_x", "x0_of_output", "x", "x0", "output", "previous", "noise", "log_std", "log_std_slope")

_ARGUMENTS = (
    "Tensor x, Tensor model_output, Tensor unconditional, Tensor previous, Tensor log_variance, Tensor coefficients,"
    " Tensor? threshold, Tensor? key, Tensor? step, float guidance, float rescale, float low, float high,"
    " bool return_x0, SymInt sample_offset"
)


def _fake(x: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape if rest[-2] else (0,))


_op = define_op(
    "diffusion_step",
    drawn.diffusion_step,
    schema=f"({_ARGUMENTS}) -> (Tensor, Tensor)",
    differentiable=("x", "model_output", "unconditional", "previous", "log_variance"),
    fake=_fake,
)
LIBRARY.impl("diffusion_step_backward", drawn.diffusion_step_backward, "CompositeExplicitAutograd")

# The same into given memory, which may be that of x; without derivatives.
LIBRARY.define(f"diffusion_step_out({_ARGUMENTS}, Tensor(a!) out, Tensor(b!) out_x0) -> ()")
_step_out = torch.ops.genkern.diffusion_step_out.default


@torch.library.register_fake("genkern::diffusion_step_out", lib=LIBRARY)
def _fake_out(*args: object) -> None:
    return None


def _reference_out(*args: object) -> None:
    *inputs, out, out_x0 = args
    for result, given in zip(_op.reference(*inputs), (out, out_x0), strict=True):
        given.copy_(result)  # type: ignore[attr-defined]


def _cuda_out(*args: object) -> None:
    from .triton import diffusion_step_out

    with torch.cuda.device(args[0].device):  # type: ignore[attr-defined]
        diffusion_step_out(*args)  # type: ignore[arg-type]


LIBRARY.impl("diffusion_step_out", _reference_out, "CompositeExplicitAutograd")
if "cuda" in _op.kernels:
    LIBRARY.impl("diffusion_step_out", _cuda_out, "CUDA")


def diffusion_step(
    x: Tensor,
    model_output: Tensor,
    coefficients: Tensor,
    *,
    unconditional: Tensor | None = None,
    guidance: float = 1.0,
    rescale: float = 0.0,
    previous: Tensor | None = None,
    log_variance: Tensor | None = None,
    clip: float | tuple[float, float] | None = None,
    threshold: Tensor | None = None,
    key: Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    step: Tensor | None = None,
    sample_offset: int = 0,
    return_x0: bool = True,
    out: Tensor | None = None,
    out_x0: Tensor | None = None,
    impl: str = "auto",
) -> tuple[Tensor, Tensor | None]:
    r"""Any step of any diffusion sampler: guidance, prediction of the data, clipping, the update and its noise.

    .. math:: o &= r\,(o_u + w\,(o_c - o_u)), \qquad \hat x_0 = \operatorname{clip}(a\,x + b\,o) \\
              x' &= c\,x + d\,\hat x_0 + e\,o + f\,p + s\,e^{l + m v} z

    with one row of coefficients :math:`(a, b, c, d, e, f, s, l, m)` for all, for each sample, or for each step.
    Every sampler of the literature is such a row; `genkern.diffusion.coefficients` writes them in float64. A term
    whose coefficient is 0 is left out: of ``previous``, ``log_variance`` and the noise nothing is read or drawn then,
    so that where a step ends without noise none is added, whatever those tensors hold.

    Args:
        x: the sample :math:`x`, ``[B, *]``.
        model_output: :math:`o_c`, of the shape of ``x``: noise, data, velocity or score.
        coefficients: ``[9]`` for all samples, ``[B, 9]`` for each of them, or with ``step`` a table ``[steps, 9]``.
            The columns, as in `COLUMNS`:

            ====================  =====================================================================================
            ``0  x0_of_x``        :math:`a`: the data in ``x``
            ``1  x0_of_output``   :math:`b`: the data in the model's output
            ``2  x``              :math:`c`
            ``3  x0``             :math:`d`, of the data after clipping
            ``4  output``         :math:`e`, of the guided output itself
            ``5  previous``       :math:`f`
            ``6  noise``          :math:`s`
            ``7  log_std``        :math:`l`, used with ``log_variance`` only
            ``8  log_std_slope``  :math:`m`, likewise
            ====================  =====================================================================================
        unconditional: :math:`o_u`, of the shape of ``x``; None: no guidance.
        guidance: :math:`w`; 1 is the conditional model.
        rescale: :math:`\phi` of :math:`r = \phi\, \mathrm{std}(o_c) / \mathrm{std}(o) + 1 - \phi` for each sample
            (Lin et al. 2024, eq. 15-16).
        previous: :math:`p`: the data predicted by an earlier step of a multistep solver, or any other tensor.
        log_variance: :math:`v`, a learned variance, of the shape of ``x``; None: the noise has scale :math:`s` alone.
        clip: the data lie in ``[-clip, clip]``, or between two bounds; None: not clipped.
        threshold: in its stead :math:`t`, ``[B]``: :math:`\hat x_0` is clipped to :math:`[-t, t]` and divided by it
            (`dynamic_threshold`); a constant to derivatives.
        key: of the noise, from `genkern.random`: one key, or ``[B]``, one for each sample. With ``step`` its
            `fold_in` by the step is used, so that one key serves a whole trajectory.
        generator: draws the key. With neither, there is no noise: the mean of the step.
        noise: :math:`z` like ``x``, in place of what would be drawn, in plain PyTorch.
        step: int64, ``[]`` or ``[B]``, on the device: the row of the table. A step that is not in it gives NaN, as
            looking would cost a synchronisation.
        sample_offset: index of the first sample, where this is a part of a larger batch; under a key for each sample,
            the index of every one.
        return_x0: whether to write :math:`\hat x_0` at all.
        out: takes :math:`x'`, of the shape and dtype of ``x``, and may be ``x`` itself; no derivatives then.
        out_x0: takes :math:`\hat x_0`, likewise, and may be ``previous`` itself; None: fresh memory.
        impl: ``"auto"``, or ``"torch"`` for the definition, differentiable in the coefficients, too.

    Returns:
        :math:`x'` and :math:`\hat x_0` (or None) like ``x``, contiguous.

    Raises:
        ValueError, TypeError: if an argument cannot be used.

    First and second derivatives in ``x``, ``model_output``, ``unconditional``, ``previous`` and ``log_variance``; CPU
    and CUDA; float64, float32, bfloat16, float16, with coefficients in float32 or wider. The noise is that of
    ``genkern.random.normal(key, x.shape)``, whatever the dtype. Nothing is read on the host.

    >>> ddim = torch.tensor([1.25, -0.75, 0.0, 0.9, 0.43589, 0.0, 0.0, 0.0, 0.0])  # alpha .8 to .9
    >>> x, x0 = diffusion_step(torch.ones(1, 4), torch.zeros(1, 4), ddim, clip=1.0)
    >>> x
    tensor([[0.9000, 0.9000, 0.9000, 0.9000]])
    """
    optional = {"unconditional": unconditional, "previous": previous, "log_variance": log_variance}
    given = {name: value for name, value in optional.items() if value is not None}
    if noise is not None:
        given["noise"] = noise
    x, model_output, *values = promote("diffusion_step", x=x, model_output=model_output, **given)
    shape = x.shape
    check(len(shape) >= 1, "diffusion_step", "x", "[B, *]", shape)
    if model_output.shape != shape:
        _refuse_shape("model_output", model_output, x)
    if given:
        given = dict(zip(given, values, strict=True))
        for name, value in given.items():
            if value.shape != shape:
                _refuse_shape(name, value, x)
    noise = given.get("noise")
    if noise is not None:
        check(key is None and generator is None, "diffusion_step", "noise", "alone, without key or generator", "both")
    if generator is not None:
        check(key is None, "diffusion_step", "key", "None where there is a generator", "both")
        key = key_from(generator, device=x.device)
    coefficients = _table(coefficients, x, step)
    if key is not None:
        _check_per_sample("key", key, x)
    if step is not None:
        _check_per_sample("step", step, x)
    check(sample_offset >= 0, "diffusion_step", "sample_offset", "at least 0", sample_offset)
    if threshold is not None:
        check_floating("diffusion_step", "threshold", threshold)
        check(threshold.shape == shape[:1], "diffusion_step", "threshold", f"[{shape[0]}]", threshold.shape)
        check(threshold.device == x.device, "diffusion_step", "threshold", f"on {x.device}", threshold.device)
        threshold = threshold.detach().to(coefficients.dtype)
    low, high = _bounds(clip)
    absent = x.new_empty(0)
    tensors = [x, model_output, *(given.get(name, absent) for name in optional), coefficients, threshold]
    plain = [float(guidance), float(rescale), low, high, bool(return_x0)]
    if noise is not None:
        check(out is None and out_x0 is None, "diffusion_step", "out", "None where noise is given", "both")
        after, x0 = _with_noise(tensors, noise, step, plain)
        return after, x0 if return_x0 else None
    arguments = [*tensors, key, step, *plain, sample_offset]
    if out is not None or out_x0 is not None:
        return _into(out, out_x0, arguments, impl)
    after, x0 = _op(*arguments, impl=impl)
    return after, x0 if return_x0 else None


def _refuse_shape(argument: str, came: Tensor, x: Tensor) -> None:
    """Out of the way of calls that are right: their time is short, and words take some of it."""
    check(False, "diffusion_step", argument, f"of the shape of x {list(x.shape)}", came.shape)


def _with_noise(tensors: list[Any], noise: Tensor, step: Tensor | None, plain: list[Any]) -> tuple[Tensor, Tensor]:
    """The definition with noise that came from outside, in float32 or wider and rounded once."""
    dtype = tensors[0].dtype
    up = [t.to(wide_dtype(dtype)) if isinstance(t, Tensor) and t.is_floating_point() else t for t in tensors]
    after, x0 = reference.diffusion_step(*up, noise.to(wide_dtype(dtype)), step, *plain)  # type: ignore[call-arg,arg-type]
    return after.to(dtype), x0.to(dtype)


def _into(out: Tensor | None, out_x0: Tensor | None, arguments: list[Any], impl: str) -> tuple[Tensor, Tensor | None]:
    x, return_x0 = arguments[0], arguments[-2]
    check(out_x0 is None or return_x0, "diffusion_step", "out_x0", "None where x0 is not returned", "a tensor")
    for name, given in (("out", out), ("out_x0", out_x0)):
        if given is None:
            continue
        if not isinstance(given, Tensor):
            check(False, "diffusion_step", name, "a tensor", type(given).__name__, TypeError)
        if given.shape != x.shape:
            _refuse_shape(name, given, x)
        if given.dtype != x.dtype or given.device != x.device:
            check(given.dtype == x.dtype, "diffusion_step", name, f"of the dtype of x ({x.dtype})", given.dtype)
            check(given.device == x.device, "diffusion_step", name, f"on {x.device}", given.device)
    wanted = torch.is_grad_enabled() and any(t.requires_grad for t in arguments if isinstance(t, Tensor))
    check(not wanted, "diffusion_step", "out", "None where derivatives are wanted", "a tensor", RuntimeError)
    out = x.new_empty(x.shape) if out is None else out
    out_x0 = x.new_empty(x.shape if return_x0 else (0,)) if out_x0 is None else out_x0
    if impl == "torch" or x.device.type not in _op.kernels:
        _reference_out(*arguments, out, out_x0)
    else:
        _step_out(*arguments, out, out_x0)
    return out, out_x0 if return_x0 else None


def _table(coefficients: Tensor, x: Tensor, step: Tensor | None) -> Tensor:
    """[rows, 9] in the dtype of the arithmetic."""
    width = len(COLUMNS)
    if isinstance(coefficients, Tensor) and step is None and coefficients.shape == (width,):  # nearly always
        if coefficients.device == x.device and coefficients.is_floating_point():
            dtype = wide_dtype(x.dtype)
            return (coefficients if coefficients.dtype == dtype else coefficients.to(dtype)).unsqueeze(0)
    check(isinstance(coefficients, Tensor), "diffusion_step", "coefficients", "a tensor", type(coefficients).__name__,
          TypeError)  # fmt: skip
    check(coefficients.is_floating_point(), "diffusion_step", "coefficients", "floating", coefficients.dtype, TypeError)
    fits = coefficients.dim() in (1, 2) and coefficients.shape[-1] == width
    rows = 1 if coefficients.dim() < 2 else coefficients.shape[0]
    if step is None:
        wanted = f"[{width}] or [B, {width}] with B = {x.shape[0]}"
        fits = fits and (coefficients.dim() == 1 or rows in (1, x.shape[0]))
    else:
        wanted = f"[steps, {width}]"
        fits = fits and coefficients.dim() == 2 and rows >= 1
    check(fits, "diffusion_step", "coefficients", wanted, coefficients.shape)
    check(coefficients.device == x.device, "diffusion_step", "coefficients", f"on {x.device}", coefficients.device)
    return coefficients.to(wide_dtype(x.dtype)).reshape(rows, width)


def _check_per_sample(name: str, value: Tensor, x: Tensor) -> None:
    check(isinstance(value, Tensor), "diffusion_step", name, "an int64 tensor", type(value).__name__, TypeError)
    check(value.dtype == torch.int64, "diffusion_step", name, "an int64 tensor", value.dtype, TypeError)
    check(value.dim() == 0 or value.shape == x.shape[:1], "diffusion_step", name, f"[] or [{x.shape[0]}]", value.shape)
    check(value.device == x.device, "diffusion_step", name, f"on {x.device}", value.device)


def _bounds(clip: float | tuple[float, float] | None) -> tuple[float, float]:
    if clip is None:
        return -math.inf, math.inf
    low, high = (-clip, clip) if isinstance(clip, int | float) else clip
    check(low <= high, "diffusion_step", "clip", "None, at least 0, or two bounds in order", clip)
    return float(low), float(high)


__all__ = ["COLUMNS", "diffusion_step"]
