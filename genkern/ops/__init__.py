"""Operations of deep generative models: functions of tensors, with kernels behind them where there are any."""

from .actnorm import (
    actnorm,
)
from .affine_coupling import (
    additive_coupling,
    affine_coupling,
)
from .autoregressive_conv import (
    autoregressive_conv,
)
from .categorical_sample import (
    categorical_sample,
)
from .causal_sample import (
    causal_sample,
)
from .concat_elu import (
    concat_elu,
)
from .dequantize import (
    bits_per_dim,
    dequantize,
    logit_transform,
    quantize,
)
from .diagonal_lstm import (
    diagonal_lstm,
    row_lstm,
)
from .diffusion_loss import (
    diffusion_loss,
)
from .diffusion_step import (
    diffusion_step,
)
from .discretized_gaussian import (
    discretized_gaussian,
    vlb_coefficients,
    vlb_term,
)
from .discretized_mixture_logistics import (
    discretized_mixture_logistics,
    sample_discretized_mixture_logistics,
)
from .dynamic_threshold import (
    dynamic_threshold,
)
from .flow_batch_norm import (
    flow_batch_norm,
)
from .gated_activation import (
    gated_activation,
)
from .gaussian_kl import (
    gaussian_kl,
)
from .gaussian_log_prob import (
    gaussian_log_prob,
)
from .gumbel_softmax import (
    gumbel_softmax,
)
from .invertible_conv1x1 import (
    fold_actnorm,
    folded_weight,
    inverse_and_log_abs_det,
    invertible_conv1x1,
    log_abs_det,
)
from .langevin_step import (
    langevin_snr_step,
    langevin_step,
)
from .made_inverse import (
    made_inverse,
)
from .planar import (
    planar,
)
from .plu_weight import (
    folded_plu_weight,
    plu_factors,
    plu_weight,
)
from .q_sample import (
    q_sample,
)
from .quantile_huber import (
    quantile_huber,
)
from .radial import (
    radial,
)
from .rational_quadratic_spline import (
    rational_quadratic_spline,
    spline_parameters,
)
from .reparameterize import (
    reparameterize,
)
from .simplex_noise import (
    simplex_noise,
)
from .squeeze import (
    squeeze,
    unsqueeze,
)
from .vq_assign import (
    Assignment,
    vq_assign,
)

__all__ = [
    "Assignment",
    "actnorm",
    "additive_coupling",
    "affine_coupling",
    "autoregressive_conv",
    "bits_per_dim",
    "categorical_sample",
    "causal_sample",
    "concat_elu",
    "dequantize",
    "diagonal_lstm",
    "diffusion_loss",
    "diffusion_step",
    "discretized_gaussian",
    "discretized_mixture_logistics",
    "dynamic_threshold",
    "flow_batch_norm",
    "fold_actnorm",
    "folded_weight",
    "folded_plu_weight",
    "gated_activation",
    "gaussian_kl",
    "gaussian_log_prob",
    "gumbel_softmax",
    "inverse_and_log_abs_det",
    "invertible_conv1x1",
    "langevin_snr_step",
    "langevin_step",
    "log_abs_det",
    "logit_transform",
    "made_inverse",
    "planar",
    "plu_factors",
    "plu_weight",
    "q_sample",
    "quantile_huber",
    "quantize",
    "radial",
    "rational_quadratic_spline",
    "reparameterize",
    "row_lstm",
    "sample_discretized_mixture_logistics",
    "simplex_noise",
    "spline_parameters",
    "squeeze",
    "unsqueeze",
    "vlb_coefficients",
    "vlb_term",
    "vq_assign",
]
