"""Batch normalisation as a flow layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ... import ops
from .flow import Flow


class FlowBatchNorm(Flow):
    """Batch normalisation with its log-determinant; see `genkern.ops.flow_batch_norm`.

    Training normalises by the batch's statistics, evaluation and `inverse` by the running ones, so that only in
    evaluation mode the two directions undo each other.

    Args:
        channels: size of dimension 1 of the input.
        momentum: weight of a batch in the running statistics.
        eps: added to the variance.

    Dinh et al. 2017 (arXiv:1605.08803), section 3.7.

    >>> z, log_det = FlowBatchNorm(3)(5 + 2 * torch.randn(64, 3))
    >>> torch.allclose(z.mean(0), torch.zeros(3), atol=1e-5)
    True
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, *, momentum: float = 0.1, eps: float = 1e-5):
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.log_scale = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._normalise(x, training=self.training)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._normalise(z, training=False, inverse=True)

    def _normalise(self, x: Tensor, *, training: bool, inverse: bool = False) -> tuple[Tensor, Tensor]:
        return ops.flow_batch_norm(
            x,
            self.log_scale,
            self.bias,
            self.running_mean,
            self.running_var,
            training=training,
            momentum=self.momentum,
            eps=self.eps,
            inverse=inverse,
        )

    def reconstructs(self) -> bool:
        return not self.training

    def extra_repr(self) -> str:
        return f"{self.log_scale.numel()}, momentum={self.momentum}, eps={self.eps}"
