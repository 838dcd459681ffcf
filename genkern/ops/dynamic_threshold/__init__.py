"""Dynamic thresholds: the quantile of each sample's magnitudes, by selection."""

from __future__ import annotations

import math

from torch import Tensor

from .._checks import check, check_floating
from .._library import define_op, wide_dtype
from . import reference

_op = define_op(
    "dynamic_threshold",
    reference.dynamic_threshold,
    schema="(Tensor x, SymInt below, float weight, float lowest, float highest) -> Tensor",
    wide=(0,),
    fake=lambda x, *_: x.new_empty(x.shape[0], dtype=wide_dtype(x.dtype)),
)


def dynamic_threshold(
    x: Tensor, ratio: float = 0.995, maximum: float = math.inf, *, minimum: float = 1.0, impl: str = "auto"
) -> Tensor:
    r"""How far each sample of predicted data reaches: the bound to which `diffusion_step` clips it.

    .. math:: t = \operatorname{clamp}(Q_{ratio}(\lvert x \rvert),\, minimum,\, maximum)

    with the quantile of the sample's own elements, interpolated between two of them as `torch.quantile` does, but
    found by selection in linear time, and of samples of any size.

    Args:
        x: ``[B, *]``, at least one element a sample.
        ratio: in [0, 1].
        maximum, minimum: bounds of the result; 1 is where pixels end.
        impl: ``"auto"``, or ``"torch"`` for the definition.

    Returns:
        ``[B]``, float32 or wider; NaN where the sample has one. No derivative.

    Raises:
        ValueError, TypeError: if an argument cannot be used.

    CPU and CUDA; float64, float32, bfloat16, float16. Saharia et al. 2022 (arXiv:2205.11487), section 2.3.

    >>> dynamic_threshold(torch.tensor([[0.0, -1.0, 2.0, -3.0]]), 0.5)
    tensor([1.5000])
    """
    check_floating("dynamic_threshold", "x", x)
    check(x.dim() >= 1, "dynamic_threshold", "x", "[B, *]", x.shape)
    elements = x.shape[1:].numel()
    check(elements > 0, "dynamic_threshold", "x", "of at least one element a sample", x.shape)
    check(0 <= ratio <= 1, "dynamic_threshold", "ratio", "in [0, 1]", ratio)
    check(minimum <= maximum, "dynamic_threshold", "minimum", f"at most maximum ({maximum})", minimum)
    position = ratio * (elements - 1)
    below = min(int(position), elements - 1)
    return _op(x.detach(), below, float(position - below), float(minimum), float(maximum), impl=impl)


__all__ = ["dynamic_threshold"]
