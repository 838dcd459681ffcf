"""How the networks of a flow see a context: what a layer gives to them, and what they make of it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


def call(network: nn.Module, x: Tensor, context: Tensor | None) -> Tensor:
    """A network reads the input and, where there is one, the context."""
    return network(x) if context is None else network(x, context)


def conditioned_on(conditioner: nn.Module, context: Tensor | None, layer: str) -> Tensor:
    """What a network makes of the context that the layer must be given."""
    if context is None:
        raise ValueError(f"{layer}: context must be given to a layer with a conditioner.")
    return conditioner(context)


class Conditioned(nn.Module):
    r"""A chain of layers, to whose first features a linear map of the context is added.

    .. math:: h = \mathrm{rest}\big(\mathrm{first}(x) + W c\big)

    Args:
        layers: as for `torch.nn.Sequential`.
        features: what the first of them returns, the size of dimension 1.
        context: how many numbers :math:`c` has: ``[B, context]``, the same for every site of a picture, or
            ``[B, context, H, W]``.

    Raises:
        ValueError: where the context is missing or of another size.

    >>> network = Conditioned([nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 6, 1)], 16, context=10)
    >>> network(torch.randn(2, 3, 8, 8), torch.randn(2, 10)).shape
    torch.Size([2, 6, 8, 8])
    """

    def __init__(self, layers: Sequence[nn.Module], features: int, context: int):
        super().__init__()
        self.first, self.rest = layers[0], nn.Sequential(*layers[1:])
        self.projection = nn.Linear(context, features, bias=False)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.rest(self.first(x) + at_every_site(self.projection, context, x.dim()))


def conditioned(layers: Sequence[nn.Module], features: int, context: int | None) -> nn.Module:
    """The chain, which takes a context where its size is given."""
    return nn.Sequential(*layers) if context is None else Conditioned(layers, features, context)


def at_every_site(projection: nn.Linear, context: Tensor | None, dims: int) -> Tensor:
    """A linear map of the context's channels, with as many dimensions as the features that it is added to."""
    size = projection.in_features
    if context is None or context.dim() not in (2, dims) or context.shape[1] != size:
        found = None if context is None else list(context.shape)
        raise ValueError(f"context must be [B, {size}], or [B, {size}, *] with a value for each site; got {found}.")
    mapped = projection(context.movedim(1, -1)).movedim(-1, 1)
    return mapped.reshape(*mapped.shape, *[1] * (dims - mapped.dim()))
