"""MADE: a perceptron whose masks make each output a function of the inputs before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from ...ops.made_inverse.reference import ACTIVATIONS, Solve, incremental

ORDERS = ("natural", "reversed", "random")


class MaskedLinear(nn.Linear):
    """A linear map without some of its connections.

    What is left out has no gradient and is never multiplied, so that whatever stands there cannot leak, not even NaN.

    Args:
        mask: ``[out, in]``, true for the connections that there are.

    >>> layer = MaskedLinear(torch.tensor([[True, False]]))
    >>> layer(torch.tensor([[0.0, 7.0]])) == layer.bias
    tensor([[True]])
    """

    mask: Tensor

    def __init__(self, mask: Tensor):
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask.bool(), persistent=False)
        with torch.no_grad():
            self.weight.masked_fill_(~self.mask, 0)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, torch.where(self.mask, self.weight, 0), self.bias)


class MADE(nn.Module):
    r"""A masked perceptron: output d depends on the inputs before d in the order, and on the context.

    .. math:: h_1 = W_1 x + b_1 + C c, \qquad h_l = W_l\, a(h_{l-1}) + b_l, \qquad y = W_{L+1}\, a(h_L) + b_{L+1}

    Each hidden unit has a degree k: it sees the first k inputs. Units are sorted by their degree, so that every weight
    is a lower block triangle and the inverse of a flow can compute them block by block (`genkern.ops.made_inverse`).
    With a context there are units of degree 0, which see it alone: the first output depends on it too.

    Args:
        features: D, the size of ``x``.
        hidden: units of the hidden layers, ``(H_1, ..., H_L)``; a number is one layer.
        outputs: P, numbers for each input; output p of input d is at ``p * D + d``.
        context: size of the context, 0 for none.
        residual: blocks of two layers with a skip connection, :math:`h_l = h_{l-2} + W_l\, a(h_{l-1}) + b_l` for odd l;
            ``hidden`` is then an odd number of equal sizes, and all layers have the same degrees.
        activation: a: ``"relu"``, ``"tanh"`` or ``"elu"``.
        order: ``"natural"``, ``"reversed"``, ``"random"`` (by the seed), or the inputs' numbers in the order.
        degrees: ``"sequential"``, spread evenly; or ``"random"``, drawn by the seed as in the paper.
        seed: of the random order and degrees.

    Shape:
        ``[B, D]`` (and ``[B, context]``) to ``[B, P * D]``.

    Germain et al. 2015 (arXiv:1502.03509), section 4; the context as in Papamakarios et al. 2017, section 3.4.

    >>> MADE(5, (32, 32), outputs=2)(torch.randn(8, 5)).shape
    torch.Size([8, 10])
    """

    layers: Sequence[MaskedLinear]

    def __init__(
        self,
        features: int,
        hidden: int | Sequence[int],
        *,
        outputs: int = 1,
        context: int = 0,
        residual: bool = False,
        activation: str = "relu",
        order: str | Sequence[int] = "natural",
        degrees: str = "sequential",
        seed: int = 0,
    ):
        super().__init__()
        self.features, self.outputs, self.residual, self.activation = features, outputs, residual, activation
        self.hidden = (hidden,) if isinstance(hidden, int) else tuple(hidden)
        self._check(degrees)
        generator = torch.Generator().manual_seed(seed)
        self.order = _order(features, order, generator)
        unit_degrees = self._degrees(degrees, context > 0, generator)
        counts = [torch.bincount(degree, minlength=features) for degree in unit_degrees]
        self.starts = tuple(start for count in counts for start in (0, *count.cumsum(0).tolist()))

        position = torch.empty(features, dtype=torch.int64)
        position[list(self.order)] = torch.arange(features)
        masks = [unit_degrees[0][:, None] > position]
        masks += [above[:, None] >= below for below, above in zip(unit_degrees, unit_degrees[1:], strict=False)]
        masks += [(position[:, None] >= unit_degrees[-1]).repeat(outputs, 1)]
        self.layers = nn.ModuleList(MaskedLinear(mask) for mask in masks)  # type: ignore[assignment]
        self.context = nn.Linear(context, self.hidden[0], bias=False) if context else None

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        activation = ACTIVATIONS[self.activation]
        h = self.layers[0](x)
        if (offset := self.offset(context)) is not None:
            h = h + offset
        stream = h
        for number, layer in enumerate(self.layers[1:-1], 2):
            h = layer(activation(h))
            if self.residual and number % 2 == 1:
                h = stream = h + stream
        return self.layers[-1](activation(h))

    def offset(self, context: Tensor | None) -> Tensor | None:
        """What the context adds to the first hidden layer, ``[B, H_1]``."""
        if (context is None) is not (self.context is None):
            wanted = "a context" if self.context is not None else "no context"
            raise ValueError(f"MADE: this network takes {wanted}; got {'none' if context is None else 'one'}.")
        return None if self.context is None else self.context(context)

    def by_steps(self, z: Tensor, solve: Solve, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The inputs ``x``, ``[B, D]``, of which each follows from those before it: every hidden unit is computed once.

        Args:
            z: ``[B, D]``.
            solve: gives the next ``x_d``, ``[B, 1]``, and a part of a log-determinant, ``[B]``, from ``z_d``,
                ``[B, 1]``, and the network's outputs of it, ``[B, P]``.
            context: as in `forward`.
        """
        offset, layers = self.offset(context), [(layer.weight, layer.bias) for layer in self.layers]
        z = z.to(torch.promote_types(z.dtype, layers[0][0].dtype))
        offset = z.new_zeros(len(z), 0) if offset is None else offset
        activation = ACTIVATIONS[self.activation]
        return incremental(z, layers, offset, self.starts, self.order, activation, self.residual, solve)

    def flat_parameters(self) -> tuple[Tensor, Tensor]:
        """All weights one after the other, and all biases: what `genkern.ops.made_inverse` takes."""
        weights = [layer.weight.flatten() for layer in self.layers]
        return torch.cat(weights), torch.cat([layer.bias for layer in self.layers])

    @property
    def structure(self) -> dict[str, Any]:
        """The arguments of `genkern.ops.made_inverse` that say how the units depend on each other."""
        return {
            "hidden": self.hidden,
            "starts": self.starts,
            "order": self.order,
            "activation": self.activation,
            "residual": self.residual,
        }

    def _degrees(self, degrees: str, conditional: bool, generator: torch.Generator) -> list[Tensor]:
        """Degree of each unit, sorted, from 0 (with a context) or 1 to D - 1."""
        low = 0 if conditional or self.features == 1 else 1
        found: list[Tensor] = []
        for units in self.hidden:
            if found and self.residual:
                found.append(found[0])
            elif degrees == "sequential":
                found.append(low + torch.arange(units) * (self.features - low) // units)
            else:  # no unit without inputs: none below the lowest of the layer before
                lowest = int(found[-1][0]) if found else low
                found.append(torch.randint(lowest, self.features, (units,), generator=generator).sort().values)
        return found

    def _check(self, degrees: str) -> None:
        if not self.hidden or min(self.hidden) < 1 or min(self.features, self.outputs) < 1:
            sizes = f"features={self.features}, hidden={self.hidden}, outputs={self.outputs}"
            raise ValueError(f"MADE: sizes must be positive, with a hidden layer or more; got {sizes}.")
        if self.residual and (len(self.hidden) % 2 == 0 or len(set(self.hidden)) > 1):
            raise ValueError(f"MADE: residual needs an odd number of equal hidden layers; got hidden={self.hidden}.")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"MADE: activation must be one of {tuple(ACTIVATIONS)}; got {self.activation!r}.")
        if degrees not in ("sequential", "random"):
            raise ValueError(f"MADE: degrees must be 'sequential' or 'random'; got {degrees!r}.")

    def extra_repr(self) -> str:
        return f"{self.features}, {self.hidden}, outputs={self.outputs}, activation={self.activation!r}" + (
            ", residual=True" if self.residual else ""
        )


def _order(features: int, order: str | Sequence[int], generator: torch.Generator) -> tuple[int, ...]:
    if order == "natural":
        return tuple(range(features))
    if order == "reversed":
        return tuple(reversed(range(features)))
    if order == "random":
        return tuple(torch.randperm(features, generator=generator).tolist())
    if isinstance(order, str) or sorted(order) != list(range(features)):
        raise ValueError(f"MADE: order must be one of {ORDERS} or a permutation of {features} numbers; got {order!r}.")
    return tuple(order)
