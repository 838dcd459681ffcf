"""What every flow layer is: a bijection that also returns the log-determinant of its Jacobian."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Inverses = Sequence[tuple[Tensor, Tensor]]
"""For each matrix W of a flow, ``(W⁻¹, log|det W|)``."""


class Flow(nn.Module):
    r"""A bijection ``z = f(x)`` with a tractable Jacobian.

    A subclass defines `forward` (density direction: data to latents) and `inverse` (sampling direction). Both return
    ``(output, log_det)``, with ``log_det`` = :math:`\log|\det \partial\,\mathrm{output} / \partial\,\mathrm{input}|`
    in nats, ``[B]``, float32 or wider.

    A layer with small matrices lists them in `free_weights` and `matrices`, and then takes ``log_abs_dets=`` in
    `forward` and ``inverses=`` in `inverse`: the outermost container computes them for the whole model in one call.

    >>> class Double(Flow):
    ...     def forward(self, x, context=None):
    ...         return 2 * x, torch.full((len(x),), x[0].numel() * 0.6931)
    ...
    ...     def inverse(self, z, context=None):
    ...         return z / 2, torch.full((len(z),), z[0].numel() * -0.6931)
    >>> float(Double().reconstruction_error(torch.randn(2, 3)))
    0.0
    """

    initializes_from_data = False
    """Whether the layer's parameters are set from the first batch that it sees in training."""

    draws_noise = False
    """Whether the log-determinant is an estimate; see `genkern.nn.flows.replay.noise_of`."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        raise NotImplementedError(f"{type(self).__name__} does not define forward.")

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        raise NotImplementedError(f"{type(self).__name__} does not define inverse.")

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Data-dependent initialisation from one batch, layer after layer; returns the batch's latents.

        Layers that are initialised already keep their parameters, so that calling this on a trained or loaded
        model changes nothing.
        """
        pending = [layer for layer in self.modules() if getattr(layer, "initializes_from_data", False)]
        modes = [layer.training for layer in pending]
        for layer in pending:
            layer.training = True
        try:
            return self(x, context)[0]
        finally:
            for layer, mode in zip(pending, modes, strict=True):
                layer.training = mode

    def awaits_data(self) -> bool:
        """Whether a layer inside is about to set its parameters from the next batch."""
        return any(m.training and m.pending for m in self.modules() if getattr(m, "initializes_from_data", False))

    def reconstruction_error(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Largest absolute difference between ``x`` and ``inverse(forward(x))``."""
        return (self.inverse(self(x, context)[0], context)[0] - x).abs().max()

    def reconstructs(self) -> bool:
        """Whether, in its present mode, `inverse` undoes `forward` on the same batch."""
        return all(flow.reconstructs() for flow in self.children() if isinstance(flow, Flow))

    def keeps_own_memory(self) -> bool:
        """Whether the layer itself decides what it stores for the backward pass."""
        return any(flow.keeps_own_memory() for flow in self.children() if isinstance(flow, Flow))

    def free_weights(self) -> list[Tensor]:
        """The matrices whose log-determinants `forward` needs, in order."""
        return []

    def matrices(self) -> list[Tensor]:
        """The matrices whose inverses `inverse` needs, in order."""
        return []


class Inverse(Flow):
    """A flow run backwards: its sampling direction becomes the density direction.

    Args:
        flow: the flow.

    >>> from genkern.nn import Squeeze
    >>> Inverse(Squeeze())(torch.randn(2, 12, 4, 4))[0].shape
    torch.Size([2, 3, 8, 8])
    """

    def __init__(self, flow: Flow):
        super().__init__()
        self.flow = flow

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.flow.inverse(x, context)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.flow(z, context)


def hand_out(items: Sequence[Any] | None, counts: Sequence[int], name: str) -> Iterator[dict[str, Any]]:
    """Keyword arguments for each layer: its share of the items, or nothing for a layer that wants none."""
    start = 0
    for count in counts:
        yield {name: items[start : start + count]} if count and items is not None else {}
        start += count


def no_volume(x: Tensor) -> Tensor:
    """The log-determinant of a map that only moves elements about: zeros, ``[B]``."""
    return torch.zeros(len(x), dtype=torch.float64 if x.dtype == torch.float64 else torch.float32, device=x.device)
