"""Operations of deep generative models: functions of tensors, with kernels behind them where there are any."""

from .affine_coupling import additive_coupling, affine_coupling

__all__ = ["additive_coupling", "affine_coupling"]
