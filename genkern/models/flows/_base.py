"""What all flow models share: dequantisation, a prior over latents, and what follows from the change of variables."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ... import ops
from ...nn import Flow, Prior, StandardNormal
from .._base import Batch, GenerativeModel, Loss, as_batch


class FlowModel(GenerativeModel):
    r"""A flow ``z = f(y)`` with a prior over ``z``, where ``y`` is the data, dequantised if it is discrete.

    .. math:: \log p(x) = \log p_Z(f(y)) + \log\lvert\det \partial f / \partial y\rvert
              + \log\lvert\det \partial y / \partial (x + u)\rvert, \qquad u \sim U[0, 1)

    which is a lower bound in expectation of the probability of integer pixels. A model sets ``self.flow``, and
    ``self.prior`` where that is other than a standard normal of the data's shape. Its config holds ``shape``,
    ``levels`` and ``alpha`` (of the logit transform; None: pixels are scaled to [-0.5, 0.5]).
    """

    flow: Flow
    prior: Prior

    def __init__(self, config: Any):
        super().__init__(config)
        self.prior = StandardNormal(tuple(config.shape))

    # -- data and latents ---------------------------------------------------------------------------------------

    def encode(self, x: Tensor, *, key: Tensor | None = None, sample_offset: int = 0) -> tuple[Tensor, Tensor]:
        """Latents ``z`` of the data and the log-determinant, ``[B]``, of the whole way from ``x`` to ``z``."""
        y, log_det = self.dequantize(x, key=key, sample_offset=sample_offset)
        z, term = self.flow(y)
        return z, log_det + term

    def decode(self, z: Tensor) -> Tensor:
        """The data whose latents are ``z``."""
        return self.quantize(self.flow.inverse(z)[0])

    def dequantize(self, x: Tensor, *, key: Tensor | None = None, sample_offset: int = 0) -> tuple[Tensor, Tensor]:
        config = self._check(x)
        if config.levels is None:
            return x.to(self.dtype), torch.zeros(len(x), dtype=self.dtype, device=x.device)
        y, log_det = ops.dequantize(
            x, config.levels, alpha=config.alpha, key=key, sample_offset=sample_offset, dtype=self.dtype
        )
        return (y - 0.5 if config.alpha is None else y), log_det

    def quantize(self, y: Tensor) -> Tensor:
        config = self.config
        if config.levels is None:
            return y
        return ops.quantize(y + 0.5 if config.alpha is None else y, config.levels, alpha=config.alpha)

    def _log_det_of_dequantization(self, y: Tensor) -> Tensor:
        """That of `dequantize`, for given ``y``."""
        config, y = self.config, y.flatten(1)
        if config.levels is None:
            return torch.zeros_like(y[:, 0])
        constant = -y.shape[1] * math.log(config.levels)
        if config.alpha is None:
            return torch.full_like(y[:, 0], constant)
        return constant + (math.log1p(-2 * config.alpha) - logsigmoid(y) - logsigmoid(-y)).sum(1)

    # -- the protocol -------------------------------------------------------------------------------------------

    def log_prob(self, x: Tensor, *, key: Tensor | None = None, sample_offset: int = 0) -> Tensor:
        """Log-likelihood in nats, ``[B]``; of integer pixels with one draw of the dequantisation noise."""
        z, log_det = self.encode(x, key=key, sample_offset=sample_offset)
        return self.prior.log_prob(z) + log_det

    def loss(self, batch: Batch | Tensor, *, key: Tensor | None = None, sample_offset: int = 0) -> Loss:
        """Mean negative log-likelihood: bits per dimension for integer pixels, nats for continuous data."""
        x = as_batch(batch).x
        nats = -self.log_prob(x, key=key, sample_offset=sample_offset).mean()
        bits_per_dim = nats / (x[0].numel() * math.log(2))
        total = nats if self.config.levels is None else bits_per_dim
        return Loss(total, {"nats": nats.detach(), "bits_per_dim": bits_per_dim.detach()})

    @torch.no_grad()
    def sample(self, n: int, *, key: Tensor, temperature: float = 1.0, sample_offset: int = 0) -> Tensor:
        """``n`` samples; a temperature below 1 shrinks the latents towards the mode."""
        return self.decode(self._latents(n, key, temperature, sample_offset))

    @torch.no_grad()
    def sample_and_log_prob(self, n: int, *, key: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """``n`` samples and the model's log-likelihood of each (at temperature 1), from one pass.

        For integer pixels it is that of the continuous value before rounding: a draw of `log_prob` at the sample.
        """
        z = self._latents(n, key, temperature)
        y, log_det = self.flow.inverse(z)
        return self.quantize(y), self.prior.log_prob(z) - log_det + self._log_det_of_dequantization(y)

    @torch.no_grad()
    def reconstruct(self, x: Tensor, *, key: Tensor | None = None) -> Tensor:
        """The data again, from their latents: the same up to rounding."""
        return self.decode(self.encode(x, key=key)[0])

    @torch.no_grad()
    def reconstruction_error(self, x: Tensor, *, key: Tensor | None = None) -> Tensor:
        """Largest absolute difference between the (dequantised) data and what their latents give back."""
        y, _ = self.dequantize(x, key=key)
        return (self.flow.inverse(self.flow(y)[0])[0] - y).abs().max()

    @torch.no_grad()
    def initialize(self, batch: Batch | Tensor, *, key: Tensor | None = None) -> None:
        """Sets the activation normalisations from a batch, where that is still to be done."""
        self.flow.initialize(self.dequantize(as_batch(batch).x, key=key)[0])

    def _latents(self, n: int, key: Tensor, temperature: float, sample_offset: int = 0) -> Tensor:
        return self.prior.sample(n, key=key, sample_offset=sample_offset, temperature=temperature, dtype=self.dtype)

    # -- small matters ------------------------------------------------------------------------------------------

    @property
    def dtype(self) -> torch.dtype:
        """That of the parameters, at least float32: the state of the flow has it, also under autocast."""
        return torch.promote_types(next(self.parameters()).dtype, torch.float32)

    def _check(self, x: Tensor) -> Any:
        if tuple(x.shape[1:]) != tuple(self.config.shape):
            wanted = ["B", *self.config.shape]
            raise ValueError(f"{type(self).__name__}: x must be {wanted}; got {list(x.shape)}.")
        return self.config


def check_halvings(model: str, shape: tuple[int, ...], scales: int) -> None:
    """Complains unless a picture can be squeezed once for each scale."""
    if len(shape) != 3:
        raise ValueError(f"{model}: shape must be (channels, height, width); got {shape}.")
    possible = 0
    while all(size % 2 ** (possible + 1) == 0 for size in shape[1:]):
        possible += 1
    if not 1 <= scales <= possible:
        raise ValueError(
            f"{model}: scales={scales} need a height and width that halve as many times; {shape} halves {possible}"
            f" time{'' if possible == 1 else 's'}."
        )
