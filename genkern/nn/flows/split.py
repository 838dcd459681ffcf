"""Factoring out half of the variables, as a bijection."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ... import ops
from .conditioners import call
from .flow import Flow, Inverses, hand_out, no_volume


class Split(Flow):
    r"""The first half of the channels goes on through ``rest``; the second half leaves as latents.

    .. math:: z_a = f_{\mathrm{rest}}(x_a), \qquad z_b = (x_b - \mu)\, e^{-s}, \qquad (s, \mu) = \mathrm{prior}(x_a)

    so that a standard normal ``z`` of the shape of ``x`` means :math:`x_b \mid x_a \sim N(\mu, e^{2s})`: the learned
    prior of a multi-scale flow. Keeping :math:`z_b` makes the whole flow one bijection between tensors of one shape,
    and a reconstruction exact.

    Args:
        prior: from the first half ``[B, C - C // 2, *]`` (and the context, if there is one) to log-deviation and mean,
            ``[B, 2 * (C // 2), *]``; None for a fixed standard normal.
        rest: a flow that keeps the shape of the first half, and sees the context; None for the identity.

    Dinh et al. 2017 (arXiv:1605.08803), eq. 14-16; the learned prior as in Kingma & Dhariwal 2018 (arXiv:1807.03039).

    >>> z, log_det = Split(nn.Conv2d(2, 4, 1))(torch.randn(8, 4, 3, 3))
    >>> z.shape
    torch.Size([8, 4, 3, 3])
    """

    def __init__(self, prior: nn.Module | None = None, rest: Flow | None = None):
        super().__init__()
        self.prior, self.rest = prior, rest

    def forward(
        self, x: Tensor, context: Tensor | None = None, *, log_abs_dets: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        kept = x.shape[1] - x.shape[1] // 2
        z, log_det = self._standardise(x, x[:, :kept], context, inverse=True)
        if self.rest is None:
            return z, log_det
        (share,) = hand_out(log_abs_dets, [len(self.free_weights())], "log_abs_dets")
        z_a, log_det_rest = self.rest(x[:, :kept], context, **share)
        return torch.cat([z_a, z[:, kept:]], 1), log_det + log_det_rest

    def inverse(
        self, z: Tensor, context: Tensor | None = None, *, inverses: Inverses | None = None
    ) -> tuple[Tensor, Tensor]:
        if self.rest is None:
            return self._standardise(z, z[:, : z.shape[1] - z.shape[1] // 2], context, inverse=False)
        kept = z.shape[1] - z.shape[1] // 2
        (share,) = hand_out(inverses, [len(self.matrices())], "inverses")
        x_a, log_det_rest = self.rest.inverse(z[:, :kept], context, **share)
        x, log_det = self._standardise(torch.cat([x_a, z[:, kept:]], 1), x_a, context, inverse=False)
        return x, log_det + log_det_rest

    def _standardise(self, x: Tensor, x_a: Tensor, context: Tensor | None, *, inverse: bool) -> tuple[Tensor, Tensor]:
        if self.prior is None:
            return x, no_volume(x)
        params, wanted = call(self.prior, x_a, context), 2 * (x.shape[1] - x_a.shape[1])
        if params.shape[1] != wanted:
            came = f"{list(params.shape)} (x is {list(x.shape)})"
            raise ValueError(f"Split: prior must return {wanted} channels, 2 for each that leaves; got {came}.")
        return ops.affine_coupling(x, params, scale="exp", inverse=inverse)

    def free_weights(self) -> list[Tensor]:
        return [] if self.rest is None else self.rest.free_weights()

    def matrices(self) -> list[Tensor]:
        return [] if self.rest is None else self.rest.matrices()
