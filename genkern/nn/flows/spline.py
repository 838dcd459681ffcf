"""Rational-quadratic splines as layers: driven by a network (coupling), by a table, or by an autoregressive flow."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ... import ops
from .coupling import _Coupling
from .elementwise import check_parameters
from .flow import Flow


class SplineCoupling(_Coupling):
    """One part of the channels drives splines of the other; see `genkern.ops.rational_quadratic_spline`.

    Raw parameters of 0 are the identity, so that a network whose last layer starts near zero is a start near it.

    Args:
        network: reads the passive part (and the context, if there is one) and returns P numbers for each transformed
            position: ``3 * bins - 1`` with linear tails; see `genkern.ops.spline_parameters`.
        bins: how many pieces a spline has.
        bound: splines act on ``[-bound, bound]``, and the identity beyond.
        tails: ``"linear"``, ``"circular"``, or None for data that stay within the bound.
        layout: ``"parameters_first"`` or ``"parameters_last"``, the order of the network's channels.
        unit_slope: raw slopes of 0 mean a slope of 1; False for networks that were trained with other libraries.
        min_bin: the least width and height of a bin as a share of ``2 * bound``.
        min_slope: the least slope at a knot.
        flip: transform the first channels instead of the last.
        mask: ``[C, *]``, or ``[C]`` alone, True where the input passes unchanged; the network then sees and returns
            every position.
        transformed: how many channels are transformed; half of them by default, rounded down.

    Durkan et al. 2019 (arXiv:1906.04032), section 3.2.

    >>> layer = SplineCoupling(nn.Conv2d(3, 3 * 23, 3, padding=1))
    >>> z, log_det = layer(torch.randn(8, 6, 4, 4))
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        bins: int = 8,
        bound: float = 3.0,
        tails: str | None = "linear",
        layout: str = "parameters_first",
        unit_slope: bool = True,
        min_bin: float = 1e-3,
        min_slope: float = 1e-3,
        flip: bool = False,
        mask: Tensor | None = None,
        transformed: int | None = None,
    ):
        count = ops.spline_parameters(bins, tails)
        super().__init__(network, count, flip=flip, mask=mask, transformed=transformed)
        self.options: dict[str, Any] = {
            "bins": bins,
            "bound": bound,
            "tails": tails,
            "layout": layout,
            "unit_slope": unit_slope,
            "min_bin": min_bin,
            "min_slope": min_slope,
            "flip": flip,
        }

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        params = self.parameters_for(x, context)
        return ops.rational_quadratic_spline(x, params, mask=self.mask_for(x), **self.options)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        params = self.parameters_for(z, context)
        return ops.rational_quadratic_spline(z, params, mask=self.mask_for(z), inverse=True, **self.options)

    def extra_repr(self) -> str:
        shown = (f"{name}={self.options[name]!r}" for name in ("bins", "bound", "tails"))
        return ", ".join([*shown, super().extra_repr()])


class ElementwiseSpline(Flow):
    """A learned spline for each position of a sample, the same for all samples; it starts as the identity.

    Args:
        shape: of one sample.
        bins, bound, tails, min_bin, min_slope: those of `SplineCoupling`.

    >>> z, log_det = ElementwiseSpline((2,))(torch.randn(8, 2))
    """

    def __init__(
        self,
        shape: int | tuple[int, ...],
        *,
        bins: int = 8,
        bound: float = 3.0,
        tails: str | None = "linear",
        min_bin: float = 1e-3,
        min_slope: float = 1e-3,
    ):
        super().__init__()
        self.shape = (shape,) if isinstance(shape, int) else tuple(shape)
        count = ops.spline_parameters(bins, tails)
        self.raw = nn.Parameter(torch.zeros(count, math.prod(self.shape)))
        self.transform = SplineTransform(bins, bound, tails=tails, min_bin=min_bin, min_slope=min_slope)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._apply_splines(x, inverse=False)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._apply_splines(z, inverse=True)

    def _apply_splines(self, x: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"ElementwiseSpline: x must be {['B', *self.shape]}; got {list(x.shape)}.")
        y, log_det = self.transform(x.flatten(1), self.raw.flatten().expand(len(x), -1), inverse)
        return y.unflatten(1, self.shape), log_det

    def extra_repr(self) -> str:
        return f"{self.shape}, {self.transform!r}"


class SplineTransform:
    """A spline as an elementwise transform, for `MaskedAutoregressive` and its kin.

    Args:
        bins, bound, tails, min_bin, min_slope: those of `SplineCoupling`.

    ``transform(x, params, inverse=False)`` takes ``x`` ``[B, D]`` and ``params`` ``[B, P * D]``, parameters first,
    and returns ``(y, log_det)``.

    >>> z, log_det = SplineTransform()(torch.randn(8, 2), torch.zeros(8, 23 * 2))
    """

    def __init__(
        self,
        bins: int = 8,
        bound: float = 3.0,
        *,
        tails: str | None = "linear",
        min_bin: float = 1e-3,
        min_slope: float = 1e-3,
    ):
        self.parameters = ops.spline_parameters(bins, tails)
        self.options: dict[str, Any] = {
            "bins": bins,
            "bound": bound,
            "tails": tails,
            "min_bin": min_bin,
            "min_slope": min_slope,
        }

    def __call__(self, x: Tensor, params: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
        check_parameters(self, x, params)
        return ops.rational_quadratic_spline(x, params, inverse=inverse, **self.options)

    def __repr__(self) -> str:
        return f"SplineTransform({', '.join(f'{name}={self.options[name]!r}' for name in ('bins', 'bound', 'tails'))})"
