"""The Sylvester layer: many planar directions at once, orthogonal to each other."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ...ops.planar.reference import sech2, tanh_root
from .flow import Flow


class Sylvester(Flow):
    r"""A planar layer with ``M`` orthogonal directions.

    .. math:: z = x + Q R \tanh(\tilde R Q^\top x + b), \qquad
              \log\lvert\det J\rvert = \sum_i \log(1 + (1 - \tanh^2_i) \, r_{ii} \tilde r_{ii})

    ``Q``, ``[D, M]``, has orthonormal columns (a product of Householder reflections); ``R`` and ``R̃`` are upper
    triangular, with diagonals within ±0.999 by tanh, so that :math:`r_{ii} \tilde r_{ii} > -1` and the map is
    invertible. The inverse is exact: :math:`a = \tilde R Q^\top x + b` solves the triangular system
    :math:`a + \tilde R R \tanh a = \tilde R Q^\top z + b` from its last row up, one monotone root for each unknown.

    Args:
        features: ``D``, how many elements a sample has, in any shape.
        units: ``M``, at most ``D``.
        reflections: how many Householder reflections make up ``Q``; ``M`` of them reach every ``Q``.

    van den Berg et al. 2018 (arXiv:1803.05649), eq. 10-13 and section 4.2. First and second derivatives.

    >>> layer = Sylvester(8, units=4)
    >>> z, log_det = layer(torch.randn(5, 8))
    """

    def __init__(self, features: int, units: int, *, reflections: int | None = None):
        super().__init__()
        if not 1 <= units <= features:
            raise ValueError(f"Sylvester: units must be between 1 and features = {features}; got {units}.")
        self.features, self.units = features, units
        reflections = units if reflections is None else reflections
        self.reflectors = nn.Parameter(torch.randn(reflections, features))
        self.outer = nn.Parameter(torch.randn(units, units) / (10 * math.sqrt(units)))  # R: above the diagonal, and raw
        self.inner = nn.Parameter(torch.randn(units, units) / math.sqrt(units))  # R̃: the same
        self.bias = nn.Parameter(torch.zeros(units))

    def orthogonal(self) -> Tensor:
        """``Q``, ``[D, M]``."""
        reflectors = self._wide(self.reflectors)
        q = torch.eye(self.features, self.units, dtype=reflectors.dtype, device=reflectors.device)
        for reflector in reflectors.unbind(0):
            v = reflector / reflector.norm().clamp(min=1e-12)
            q = q - 2 * torch.outer(v, v @ q)
        return q

    def triangles(self) -> tuple[Tensor, Tensor]:
        """``R`` and ``R̃``, ``[M, M]``."""
        outer, inner = self._wide(self.outer), self._wide(self.inner)
        return _bounded_triangle(outer), _bounded_triangle(inner)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        with torch.autocast(x.device.type, enabled=False):
            q, (r, r_tilde), flat = self.orthogonal(), self.triangles(), self._wide(x.flatten(1))
            a = flat @ q @ r_tilde.T + self._wide(self.bias)
            z = flat + a.tanh() @ (q @ r).T
            return z.to(x.dtype).view(x.shape), self._log_det(a, r, r_tilde)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        with torch.autocast(z.device.type, enabled=False):
            q, (r, r_tilde), flat = self.orthogonal(), self.triangles(), self._wide(z.flatten(1))
            both = r_tilde @ r  # upper triangular
            right = flat @ q @ r_tilde.T + self._wide(self.bias)
            found: list[Tensor] = []  # a_M, ..., a_1
            for i in reversed(range(self.units)):
                rest = right[:, i]
                if found:
                    rest = rest - torch.stack(found[::-1], 1).tanh() @ both[i, i + 1 :]
                found.append(tanh_root(rest, (1 + both[i, i]).expand_as(rest)))
            a = torch.stack(found[::-1], 1)
            x = flat - a.tanh() @ (q @ r).T
            return x.to(z.dtype).view(z.shape), -self._log_det(a, r, r_tilde)

    def _log_det(self, a: Tensor, r: Tensor, r_tilde: Tensor) -> Tensor:
        terms = a.tanh().square() + sech2(a) * (1 + r.diagonal() * r_tilde.diagonal())
        return terms.log().sum(1)

    def _wide(self, value: Tensor) -> Tensor:
        """All arithmetic is in float32 or wider, as in an op."""
        return value.to(torch.promote_types(self.bias.dtype, torch.float32))

    def extra_repr(self) -> str:
        return f"features={self.features}, units={self.units}"


def _bounded_triangle(raw: Tensor) -> Tensor:
    return raw.triu(1) + (0.999 * raw.diagonal().tanh()).diag()
