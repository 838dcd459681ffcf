"""Log-densities of diagonal Gaussians: one pass from the inputs to one number for each sample."""

from __future__ import annotations

from torch import Tensor

from .._checks import broadcasts, check, promote
from .._library import define_op
from . import reference

_op = define_op(
    "gaussian_log_prob",
    reference.gaussian_log_prob,
    schema="(Tensor x, Tensor mean, Tensor log_std) -> Tensor",
    differentiable=("x", "mean", "log_std"),
    wide=(0,),
)
_standard = define_op(
    "standard_normal_log_prob",
    reference.standard_normal_log_prob,
    schema="(Tensor x) -> Tensor",
    differentiable=("x",),
    wide=(0,),
)


def gaussian_log_prob(
    x: Tensor, mean: Tensor | None = None, log_std: Tensor | None = None, *, impl: str = "auto"
) -> Tensor:
    r"""Log-density of a diagonal Gaussian, summed over all dimensions but the first.

    .. math:: \log \mathcal{N}(x; m, e^{2s}) = \sum -\tfrac12 \log 2\pi - s - \tfrac12 \left((x - m) e^{-s}\right)^2

    Args:
        x: ``[B, *]``.
        mean: :math:`m`, of the shape of ``x`` or one that broadcasts to it (``[C, 1, 1]``, ``[1, *]``); None: 0.
        log_std: :math:`s`, likewise; None: 0. With neither, the standard normal.
        impl: ``"auto"``, or ``"torch"`` for the definition.

    Returns:
        The log-density in nats, ``[B]``, float32 or wider whatever the dtype of ``x``.

    Raises:
        ValueError: if a parameter does not broadcast to ``x``, or lies on another device.
        TypeError: if a dtype is not float64, float32, bfloat16 or float16.

    First and second derivatives in all three; CPU and CUDA. Dtypes are promoted as in PyTorch. A ``log_std`` of ±100
    gives no NaN: what float32 cannot hold is infinite.

    >>> gaussian_log_prob(torch.zeros(2, 3))
    tensor([-2.7568, -2.7568])
    >>> gaussian_log_prob(torch.ones(1, 3, 8, 8), torch.ones(3, 1, 1), torch.zeros(())).shape
    torch.Size([1])
    """
    given = {"mean": mean, "log_std": log_std}
    x, *parameters = promote("gaussian_log_prob", x=x, **{k: v for k, v in given.items() if v is not None})
    check(x.dim() >= 1, "gaussian_log_prob", "x", "[B, *]", x.shape)
    for name, value in given.items():
        if value is not None:
            fits = broadcasts(value.shape, x.shape)
            check(fits, "gaussian_log_prob", name, "broadcastable to x", (value.shape, "x is", x.shape))
    if not parameters:
        return _standard(x, impl=impl)
    full = iter(parameter.expand_as(x) for parameter in parameters)
    mean, log_std = (x.new_zeros(()).expand_as(x) if value is None else next(full) for value in given.values())
    return _op(x, mean, log_std, impl=impl)


__all__ = ["gaussian_log_prob"]
