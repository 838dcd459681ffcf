"""Steps that are better not made: deep hierarchies of latents meet a gradient now and then that would ruin them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SkipRule(nn.Module):
    r"""Skips updates whose gradient norm is not finite, or far above the norms of late.

    .. math:: \lVert g_t \rVert \le c \cdot Q_q\big(\lVert g_{t-1} \rVert, \dots, \lVert g_{t-w} \rVert\big)

    A constant threshold must be found for each data set, and one that is too low stops training for ever. The quantile
    follows the run: every finite norm is remembered, of skipped steps too, so that a lasting change is accepted once
    it fills the window. The norms are a buffer; a run resumes where it was.

    Args:
        window: :math:`w`, norms that are remembered; until there are ``window / 4`` of them, all finite ones pass.
        quantile: :math:`q`.
        factor: :math:`c`.

    Child 2021 (arXiv:2011.10650), section 4.3, with a threshold that adapts.

    >>> rule = SkipRule(window=8)
    >>> [rule(torch.tensor(norm)) for norm in (1.0, 1.2, 0.9, 1000.0, float("nan"))]
    [True, True, True, False, False]
    """

    norms: Tensor
    seen: Tensor

    def __init__(self, window: int = 200, quantile: float = 0.9, factor: float = 4.0):
        super().__init__()
        if not (window >= 4 and 0 < quantile <= 1 and factor >= 1):
            wanted = "window must be at least 4, quantile in (0, 1], factor at least 1"
            raise ValueError(f"SkipRule: {wanted}; got {window}, {quantile}, {factor}.")
        self.window, self.quantile, self.factor = window, quantile, factor
        self.register_buffer("norms", torch.zeros(window))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def forward(self, gradient_norm: Tensor) -> bool:
        """Whether to make the step; waits for the device."""
        norm, seen = float(gradient_norm), int(self.seen)
        if not torch.isfinite(gradient_norm):
            return False
        known = self.norms[: min(seen, self.window)]
        accepted = seen < self.window // 4 or norm <= self.factor * float(known.float().quantile(self.quantile))
        self.norms[seen % self.window] = norm
        self.seen += 1
        return accepted

    def extra_repr(self) -> str:
        return f"window={self.window}, quantile={self.quantile}, factor={self.factor}"
