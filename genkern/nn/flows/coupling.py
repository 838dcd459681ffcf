"""Coupling layers: one part of the input drives a simple map of the other part."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ... import ops
from .conditioners import call
from .flow import Flow


class _Coupling(Flow):
    """The part of the input that a coupling's network may read: some of the channels, or all but masked ones."""

    mask: Tensor | None

    def __init__(self, network: nn.Module, numbers: int, *, flip: bool, mask: Tensor | None, transformed: int | None):
        super().__init__()
        self.network, self.flip, self.transformed = network, flip, transformed
        self.numbers = numbers  # that the network gives for each transformed element
        self.register_buffer("mask", None if mask is None else mask.bool(), persistent=False)

    def passive(self, x: Tensor) -> Tensor:
        """What passes unchanged: ``[B, C - C_b, *]``, or with a mask ``[B, C, *]`` with zeros elsewhere."""
        mask = self.mask_for(x)
        if mask is not None:
            return x * mask.to(x.dtype)
        active = self.active(x)
        return x[:, active:] if self.flip else x[:, : x.shape[1] - active]

    def active(self, x: Tensor) -> int:
        """How many channels are transformed, where there is no mask."""
        active = x.shape[1] // 2 if self.transformed is None else self.transformed
        if not 0 < active < x.shape[1]:
            came = f"{list(x.shape)}, of which {active} channels are transformed"
            raise ValueError(f"{type(self).__name__}: x must have channels of either kind; got {came}.")
        return active

    def parameters_for(self, x: Tensor, context: Tensor | None) -> Tensor:
        """What the network says; of more channels than are transformed, some would drive themselves."""
        params = call(self.network, self.passive(x), context)
        if self.mask is None and isinstance(params, Tensor) and params.dim() > 1:
            wanted = self.numbers * self.active(x)
            if params.shape[1] != wanted:
                why = f"{self.numbers} for each of the {self.active(x)} transformed ones of {x.shape[1]}"
                raise ValueError(
                    f"{type(self).__name__}: network must return {wanted} channels, {why}; got {list(params.shape)}."
                )
        return params

    def mask_for(self, x: Tensor) -> Tensor | None:
        if self.mask is None:
            return None
        trailing = [1] * (x.dim() - 1 - self.mask.dim())
        return self.mask.view(*self.mask.shape, *trailing).expand(x.shape[1:])

    def extra_repr(self) -> str:
        return f"flip={self.flip}" if self.mask is None else f"mask={tuple(self.mask.shape)}"


class AffineCoupling(_Coupling):
    """One part of the channels drives an affine map of the other; see `genkern.ops.affine_coupling`.

    Args:
        network: reads the passive part (and the context, if there is one) and returns scale and shift.
        scale: ``"exp"``, ``"tanh"`` (bounded) or ``"sigmoid"`` (of ``s + 2``, as in Glow).
        bound: the largest absolute log-scale of ``"tanh"``.
        layout: how the network's channels hold them: ``"scale_shift"``, ``"shift_scale"`` or ``"interleaved"``.
        flip: transform the first channels instead of the last.
        mask: ``[C, *]``, or ``[C]`` alone, True where the input passes unchanged; the network then sees and returns
            every position.
        transformed: how many channels are transformed; half of them by default, rounded down.

    >>> layer = AffineCoupling(nn.Conv2d(3, 6, 3, padding=1))
    >>> z, log_det = layer(torch.randn(8, 6, 4, 4))
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        scale: str = "sigmoid",
        bound: float = 1.0,
        layout: str = "scale_shift",
        flip: bool = False,
        mask: Tensor | None = None,
        transformed: int | None = None,
    ):
        super().__init__(network, 2, flip=flip, mask=mask, transformed=transformed)
        self.options: dict[str, Any] = {"scale": scale, "bound": bound, "layout": layout, "flip": flip}

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return ops.affine_coupling(x, self.parameters_for(x, context), mask=self.mask_for(x), **self.options)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return ops.affine_coupling(
            z, self.parameters_for(z, context), mask=self.mask_for(z), inverse=True, **self.options
        )

    def extra_repr(self) -> str:
        return f"scale={self.options['scale']!r}, layout={self.options['layout']!r}, {super().extra_repr()}"


class AdditiveCoupling(_Coupling):
    """One part of the channels drives a shift of the other; see `genkern.ops.additive_coupling`.

    Args:
        network: reads the passive part (and the context) and returns one number for each transformed position.
        flip, mask, transformed: as for `AffineCoupling`.

    Volume is preserved. Dinh et al. 2014 (arXiv:1410.8516), section 3.2.

    >>> z, log_det = AdditiveCoupling(nn.Linear(3, 3))(torch.randn(8, 6))
    >>> log_det.detach()
    tensor([0., 0., 0., 0., 0., 0., 0., 0.])
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        flip: bool = False,
        mask: Tensor | None = None,
        transformed: int | None = None,
    ):
        super().__init__(network, 1, flip=flip, mask=mask, transformed=transformed)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return ops.additive_coupling(x, self.parameters_for(x, context), mask=self.mask_for(x), flip=self.flip)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        shift = self.parameters_for(z, context)
        return ops.additive_coupling(z, shift, mask=self.mask_for(z), flip=self.flip, inverse=True)


def checkerboard(channels: int, height: int, width: int, *, flip: bool = False) -> Tensor:
    """A mask for couplings: ``[channels, height, width]``, True where row + column is even (odd with ``flip``).

    >>> checkerboard(1, 2, 2)
    tensor([[[ True, False],
             [False,  True]]])
    """
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    return ((rows + columns) % 2 == int(flip)).expand(channels, height, width).clone()
