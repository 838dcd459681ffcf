"""The nonlinearity of PixelCNN++: twice the channels, and no unit dies."""

from __future__ import annotations

import torch
from torch import Tensor

from .._checks import check, check_floating
from .._library import define_op
from . import reference

_op = define_op("concat_elu", reference.concat_elu, schema="(Tensor x) -> Tensor", differentiable=("x",))


def concat_elu(x: Tensor, *, impl: str = "auto") -> Tensor:
    r"""ELU of the input and of its negative, concatenated.

    .. math:: y = [\operatorname{elu}(x), \operatorname{elu}(-x)], \qquad
              \operatorname{elu}(x) = \max(x, 0) + \min(e^x - 1, 0)

    Args:
        x: ``[B, C, *]``.
        impl: ``"auto"``, or ``"torch"`` for the definition.

    Returns:
        ``y``, ``[B, 2C, *]``.

    Raises:
        ValueError: if ``x`` has less than two dimensions.
        TypeError: if the dtype is not float64, float32, bfloat16 or float16.

    First and second derivatives; CPU and CUDA; saves ``x`` alone.
    Salimans et al. 2017 (arXiv:1701.05517), after the concatenated ReLU of Shang et al. 2016 (arXiv:1603.05201).

    >>> concat_elu(torch.tensor([[1.0, -1.0]]))
    tensor([[ 1.0000, -0.6321, -0.6321,  1.0000]])
    """
    check_floating("concat_elu", "x", x)
    check(x.dim() >= 2, "concat_elu", "x", "[B, C, *]", x.shape)
    if not (x.dim() == 4 and x.shape[1] >= 16 and x.is_contiguous(memory_format=torch.channels_last)):
        x = x.contiguous()
    return _op(x, impl=impl)


__all__ = ["concat_elu"]
