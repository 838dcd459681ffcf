"""Operations of deep generative models: functions of tensors, with kernels behind them where there are any."""

from .affine_coupling import additive_coupling, affine_coupling
from .gaussian_log_prob import gaussian_log_prob

__all__ = ["additive_coupling", "affine_coupling", "gaussian_log_prob"]
