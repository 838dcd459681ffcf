"""Networks of time, state and context: the velocities of continuous flows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

KINDS = ("concatsquash", "concat")
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "softplus": softplus}


class ConcatSquash(nn.Module):
    r"""A linear map whose features time (and a context) scale and shift.

    .. math:: (W x + b) \odot \sigma(G\, [t, c] + g) + H\, [t, c]
    """

    def __init__(self, linear: nn.Module, features: int, conditions: int):
        super().__init__()
        self.linear = linear
        self.gate = nn.Linear(conditions, features)
        self.shift = nn.Linear(conditions, features, bias=False)

    def forward(self, x: Tensor, conditions: Tensor) -> Tensor:
        h = self.linear(x)
        gate, shift = (like_sites(f(conditions), h) for f in (self.gate, self.shift))
        return torch.addcmul(shift, h, gate.sigmoid())


class Concat(nn.Module):
    """A linear map of the input together with time (and a context), as further channels."""

    def __init__(self, linear: nn.Module):
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor, conditions: Tensor) -> Tensor:
        sites = like_sites(conditions, x).expand(len(x), -1, *x.shape[2:])
        return self.linear(torch.cat([x, sites], dim=1))


class VelocityNetwork(nn.Module):
    r"""A network of linear maps or 3x3 convolutions, each of which sees the time: the velocity of a `CNF`.

    Args:
        shape: of one sample: ``(D,)``, or ``(C, H, W)`` for convolutions.
        hidden: units or channels.
        layers: hidden layers.
        kind: how a layer sees time and context: ``"concatsquash"`` (they scale and shift its features) or ``"concat"``
            (they are further inputs).
        activation: ``"tanh"`` or ``"softplus"``: smooth, as the solver needs it.
        context: how many numbers a context has, ``[B, context]``; None: there is none.

    The last layer starts at zero, so that the flow starts as the identity. Grathwohl et al. 2019 (arXiv:1810.01367),
    appendix B.1, and their code.

    >>> velocity = VelocityNetwork((3, 8, 8), hidden=16)
    >>> velocity(torch.tensor(0.5), torch.randn(4, 3, 8, 8)).shape
    torch.Size([4, 3, 8, 8])
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        hidden: int = 64,
        layers: int = 3,
        kind: str = "concatsquash",
        activation: str = "tanh",
        context: int | None = None,
    ):
        super().__init__()
        for name, value, known in (("kind", kind, KINDS), ("activation", activation, tuple(ACTIVATIONS))):
            if value not in known:
                raise ValueError(f"VelocityNetwork: {name} must be one of {known}; got {value!r}.")
        if len(shape) not in (1, 3):
            raise ValueError(f"VelocityNetwork: shape must be (D,) or (channels, height, width); got {shape}.")
        self.activation, self.context = activation, context
        conditions = 1 + (context or 0)
        sizes = [shape[0], *[hidden] * layers, shape[0]]

        def linear(inputs: int, outputs: int) -> nn.Module:
            return nn.Linear(inputs, outputs) if len(shape) == 1 else nn.Conv2d(inputs, outputs, 3, padding=1)

        def layer(inputs: int, outputs: int) -> nn.Module:
            if kind == "concat":
                return Concat(linear(inputs + conditions, outputs))
            return ConcatSquash(linear(inputs, outputs), outputs, conditions)

        self.layers = nn.ModuleList(layer(a, b) for a, b in zip(sizes, sizes[1:], strict=False))
        for parameter in self.layers[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, t: Tensor, z: Tensor, context: Tensor | None = None) -> Tensor:
        conditions = self._conditions(t, z, context)
        activation = ACTIVATIONS[self.activation]
        for i, layer in enumerate(self.layers):
            z = layer(z if i == 0 else activation(z), conditions)
        return z

    def _conditions(self, t: Tensor, z: Tensor, context: Tensor | None) -> Tensor:
        """Time and context, ``[B, 1 + context]``, or ``[1, 1]`` without a context."""
        wanted = None if self.context is None else [len(z), self.context]
        found = None if context is None else list(context.shape)
        if found != wanted:
            raise ValueError(f"VelocityNetwork: context must be {wanted}; got {found}.")
        time = t.to(z.dtype).reshape(1, 1)
        return time if context is None else torch.cat([time.expand(len(z), 1), context], dim=1)


def like_sites(conditions: Tensor, h: Tensor) -> Tensor:
    """``[B, F]`` with as many dimensions as features ``[B, F, *]``."""
    return conditions.reshape(*conditions.shape, *[1] * (h.dim() - 2))
