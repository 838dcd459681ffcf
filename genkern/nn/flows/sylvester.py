"""The Sylvester layer: many planar directions at once, orthogonal to each other."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ...ops.planar.reference import sech2, tanh_root
from .conditioners import conditioned_on
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
        reflections: ``K``, how many Householder reflections make up ``Q``; ``M`` of them reach every ``Q``.
        conditioner: maps the context to ``[B, K * D + 2 * M * M + M]``, that is the reflectors, raw R, raw R̃ and b
            for each sample (amortised, as from an encoder); by default they are parameters of the layer, at first
            close to the identity.

    van den Berg et al. 2018 (arXiv:1803.05649), eq. 10-13 and section 4.2. First and second derivatives.

    >>> layer = Sylvester(8, units=4)
    >>> z, log_det = layer(torch.randn(5, 8))
    """

    def __init__(
        self, features: int, units: int, *, reflections: int | None = None, conditioner: nn.Module | None = None
    ):
        super().__init__()
        if not 1 <= units <= features:
            raise ValueError(f"Sylvester: units must be between 1 and features = {features}; got {units}.")
        self.features, self.units = features, units
        self.reflections = units if reflections is None else reflections
        self.conditioner = conditioner
        if conditioner is None:
            self.reflectors = nn.Parameter(torch.randn(self.reflections, features))
            # R and R̃: above the diagonal, and raw on it
            self.outer = nn.Parameter(torch.randn(units, units) / (10 * math.sqrt(units)))
            self.inner = nn.Parameter(torch.randn(units, units) / math.sqrt(units))
            self.bias = nn.Parameter(torch.zeros(units))

    def parameters_for(self, context: Tensor | None) -> tuple[Tensor, ...]:
        """Reflectors ``[K, D]``, raw R and R̃ ``[M, M]`` and b ``[M]``, or as many of each as samples."""
        if self.conditioner is None:
            return self.reflectors, self.outer, self.inner, self.bias
        features, units, reflections = self.features, self.units, self.reflections
        given = conditioned_on(self.conditioner, context, "Sylvester")
        reflectors, outer, inner, bias = given.split([reflections * features, units**2, units**2, units], dim=1)
        outer, inner = (raw.unflatten(1, (units, units)) for raw in (outer, inner))
        return reflectors.unflatten(1, (reflections, features)), outer, inner, bias

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        parameters = self.parameters_for(context)
        with torch.autocast(x.device.type, enabled=False):
            q, r, r_tilde, bias = self._matrices(*parameters)
            flat = x.flatten(1).to(bias.dtype)
            a = _times(_times(flat, q), r_tilde.mT) + bias
            z = flat + _times(a.tanh(), (q @ r).mT)
            return z.to(x.dtype).view(x.shape), _log_det(a, r, r_tilde)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        parameters = self.parameters_for(context)
        with torch.autocast(z.device.type, enabled=False):
            q, r, r_tilde, bias = self._matrices(*parameters)
            flat = z.flatten(1).to(bias.dtype)
            both = r_tilde @ r  # upper triangular
            right = _times(_times(flat, q), r_tilde.mT) + bias
            found: list[Tensor] = []  # a_M, ..., a_1
            for i in reversed(range(self.units)):
                rest = right[:, i]
                if found:
                    rest = rest - (torch.stack(found[::-1], 1).tanh() * both[..., i, i + 1 :]).sum(1)
                found.append(tanh_root(rest, (1 + both[..., i, i]).expand_as(rest)))
            a = torch.stack(found[::-1], 1)
            x = flat - _times(a.tanh(), (q @ r).mT)
            return x.to(z.dtype).view(z.shape), -_log_det(a, r, r_tilde)

    def _matrices(self, reflectors: Tensor, outer: Tensor, inner: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        """``Q``, ``[D, M]``, ``R`` and ``R̃``, ``[M, M]``, and b, or as many of each; in float32 or wider."""
        wide = torch.promote_types(bias.dtype, torch.float32)
        return (
            orthonormal(reflectors.to(wide), self.units),
            _bounded_triangle(outer.to(wide)),
            _bounded_triangle(inner.to(wide)),
            bias.to(wide),
        )

    def extra_repr(self) -> str:
        return f"features={self.features}, units={self.units}"


def orthonormal(reflectors: Tensor, units: int) -> Tensor:
    """The first columns of a product of reflections, ``[D, M]``, or ``[B, D, M]`` from ``[B, K, D]``."""
    features = reflectors.shape[-1]
    q = torch.eye(features, units, dtype=reflectors.dtype, device=reflectors.device)
    for reflector in reflectors.unbind(-2):
        v = reflector / reflector.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        q = q - 2 * v.unsqueeze(-1) * (v.unsqueeze(-2) @ q)
    return q


def _times(rows: Tensor, matrix: Tensor) -> Tensor:
    """Each row, of ``[B, K]``, times the matrix, or times its own."""
    return rows @ matrix if matrix.dim() == 2 else (rows.unsqueeze(1) @ matrix).squeeze(1)


def _log_det(a: Tensor, r: Tensor, r_tilde: Tensor) -> Tensor:
    diagonals = r.diagonal(dim1=-2, dim2=-1) * r_tilde.diagonal(dim1=-2, dim2=-1)
    return (a.tanh().square() + sech2(a) * (1 + diagonals)).log().sum(1)


def _bounded_triangle(raw: Tensor) -> Tensor:
    return raw.triu(1) + (0.999 * raw.diagonal(dim1=-2, dim2=-1).tanh()).diag_embed()
