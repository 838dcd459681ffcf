"""Operations of deep generative models: functions of tensors, with kernels behind them where there are any."""

from .actnorm import actnorm
from .affine_coupling import additive_coupling, affine_coupling
from .flow_batch_norm import flow_batch_norm

__all__ = ["actnorm", "additive_coupling", "affine_coupling", "flow_batch_norm"]
