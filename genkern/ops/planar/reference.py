"""The planar flow in plain PyTorch: the definition that every kernel is compared with."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

LEAST_SQUARE = 1e-8  # of |w|^2 in the quotient
LEAST_S = 1e-20  # of 1 + w.u': below rounding in u', and a finite logarithm where the map is singular
STEPS = 16


def planar(x: Tensor, u: Tensor, w: Tensor, b: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
    a, square = (w * u).sum(-1), (w * w).sum(-1)
    safe = square.clamp(min=LEAST_SQUARE)
    k = (softplus(-a) - 1) / safe
    u_hat = u + k.unsqueeze(-1) * w
    share = square / safe  # 1 but for a tiny w
    s = (share * softplus(a) + (1 - share) * (1 + a)).clamp(min=LEAST_S)  # 1 + w.u'

    v = (x * w).sum(-1) + b
    if inverse:
        v = tanh_root(v, s)
    t = v.tanh()
    log_det = (t * t + sech2(v) * s).log()
    shift = u_hat * t.unsqueeze(-1)
    return (x - shift, -log_det) if inverse else (x + shift, log_det)


def sech2(v: Tensor) -> Tensor:
    """1 - tanh² v, also where tanh rounds to 1."""
    e = (-2 * v.abs()).exp()
    return 4 * e / (1 + e).square()


def tanh_root(alpha: Tensor, s: Tensor) -> Tensor:
    """The v with v + (s - 1) tanh v = alpha, for s > 0: increasing in v, so there is one.

    Two Newton steps from the root, which change nothing but the derivatives: each step doubles the order to which v
    is right in alpha and s, so that first and second derivatives are those of the implicit function.
    """
    v = newton(alpha.detach(), s.detach())
    for _ in range(2):
        t = v.tanh()
        v = v - ((v - t) + s * t - alpha) / (t * t + sech2(v) * s)
    return v


def newton(alpha: Tensor, s: Tensor) -> Tensor:
    """Newton's method from the side where it is monotone, held in a bracket; see ``csrc/ops/planar/planar.h``."""
    size = alpha.abs()
    ratio, shifted, convex = size / s, size - (s - 1), s < 1
    cubic = torch.where(size < 5 / 21, (4.2 * size).clamp(min=1e-30).log().div(3).exp(), size + 1)
    high = torch.where(convex, torch.minimum(torch.minimum(shifted, ratio), cubic), size)
    low = torch.minimum(torch.where(convex, size, torch.maximum(shifted, ratio)), high)
    straight = torch.where(ratio < 0.999, ratio.clamp(max=0.999).atanh(), low)
    v = torch.where(convex, high, straight).clamp(low, high)
    for _ in range(STEPS):
        t = v.tanh()
        f = (v - t) + s * t - size
        low, high = torch.where(f < 0, v, low), torch.where(f > 0, v, high)
        step = v - f / (t * t + sech2(v) * s)
        v = torch.minimum(torch.maximum(step, low), high)
    return torch.where(alpha < 0, -v, v)
