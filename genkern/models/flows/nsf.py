"""Neural Spline Flows. Durkan, Bekasov, Murray & Papamakarios 2019 (arXiv:1906.04032).

Monotone rational-quadratic splines in the place of affine maps, with a network that gives all knots and slopes
(section 3): in couplings, RQ-NSF (C), or in autoregressive layers, RQ-NSF (AR). On vectors, a linear layer by its LU
decomposition goes before each of them; on pictures, the multi-scale flow of Glow with spline couplings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from ...nn import (
    MADE,
    ActNorm,
    ChannelAffine,
    Flatten,
    Flow,
    FlowSequential,
    InvertibleConv1x1,
    MaskedAutoregressive,
    SplineCoupling,
    SplineTransform,
    Split,
    Squeeze,
    Unsqueeze,
)
from ...nn.flows.conditioners import conditioned
from ...ops import spline_parameters
from ._base import FlowModel, check_halvings, gaussian_base


@dataclass(frozen=True)
class Config:
    shape: tuple[int, ...] = (3, 32, 32)
    levels: int | None = 256
    scales: int = 3  # of pictures
    steps: int = 7  # of each scale; in all, on vectors
    form: str = "coupling"  # or "autoregressive", which takes pictures as vectors
    bins: int = 8  # K
    bound: float = 3.0  # B: splines act on [-B, B]
    hidden: int = 96  # channels or units of the networks
    blocks: int = 3  # residual blocks of a network
    dropout: float = 0.2  # within the blocks
    linear: bool = True  # vectors: an LU layer before each step; else alternating halves, or orders
    alpha: float | None = None  # of a logit transform of the pixels
    classes: int | None = None  # a Gaussian prior for each label
    context: int | None = None  # numbers that the networks see: of the label's embedding, or the caller's
    dequantization: str = "uniform"  # or "variational"
    policy: str = "store"  # what the flow keeps for its backward pass: or "checkpoint", "invert"
    every: int = 8


class ResidualBlock(nn.Module):
    def __init__(self, first: nn.Module, second: nn.Module, dropout: float):
        super().__init__()
        drop = nn.Dropout(dropout) if dropout else nn.Identity()
        self.branch = nn.Sequential(nn.ReLU(), first, nn.ReLU(), drop, second)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def residual_network(inputs: int, outputs: int, config: Config) -> nn.Module:
    """Raw parameters of ``outputs`` splines, from vectors or pictures; it starts at zero, that is at the identity."""

    def layer(inputs: int, outputs: int) -> nn.Linear | nn.Conv2d:
        return nn.Linear(inputs, outputs) if len(config.shape) == 1 else nn.Conv2d(inputs, outputs, 3, padding=1)

    hidden, last = config.hidden, layer(config.hidden, outputs * spline_parameters(config.bins))
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)  # type: ignore[arg-type]
    blocks = (ResidualBlock(layer(hidden, hidden), layer(hidden, hidden), config.dropout) for _ in range(config.blocks))
    return conditioned([layer(inputs, hidden), *blocks, nn.ReLU(), last], hidden, config.context)


def coupling(channels: int, flip: bool, config: Config) -> Flow:
    active = channels - channels // 2 if flip else channels // 2
    network = residual_network(channels - active, active, config)
    return SplineCoupling(network, bins=config.bins, bound=config.bound, flip=flip, transformed=active)


def step(channels: int, config: Config) -> Flow:
    """A step of Glow with a spline coupling; the activation normalisation is folded into the linear layer."""
    return FlowSequential(InvertibleConv1x1(channels, actnorm=True), coupling(channels, False, config))


def autoregressive(size: int, flip: bool, config: Config) -> Flow:
    transform = SplineTransform(config.bins, config.bound)
    network = MADE(
        size,
        [config.hidden] * (1 + 2 * config.blocks),
        outputs=transform.parameters,
        context=config.context or 0,
        residual=True,
        order="reversed" if flip else "natural",
    )
    nn.init.zeros_(network.layers[-1].weight)  # type: ignore[arg-type]
    nn.init.zeros_(network.layers[-1].bias)  # type: ignore[arg-type]
    return MaskedAutoregressive(network, transform)


def vector_flow(size: int, config: Config) -> list[Flow]:
    """Linear layers between the steps and at both ends; or none, and steps of alternating halves or orders."""
    layer = coupling if config.form == "coupling" else autoregressive
    if not config.linear:
        return [ActNorm(size), *(layer(size, i % 2 == 1, config) for i in range(config.steps))]
    steps = (
        f for _ in range(config.steps) for f in (InvertibleConv1x1(size, actnorm=True), layer(size, False, config))
    )
    return [*steps, InvertibleConv1x1(size, actnorm=True)]


def level(channels: int, scales: int, config: Config) -> Flow:
    """Squeeze and the steps of a scale; half of the channels leave as latents, the others go on to the next one."""
    channels = 4 * channels
    if scales == 1:
        leave: Flow = ChannelAffine(channels)
    else:
        leave = Split(rest=level(channels - channels // 2, scales - 1, config))
    # the linear layer at the end lets the flow choose what leaves
    layers = [*(step(channels, config) for _ in range(config.steps)), InvertibleConv1x1(channels)]
    return FlowSequential(Squeeze(), *layers, leave, Unsqueeze(), policy=config.policy, every=config.every)


class NSF(FlowModel):
    config_class = Config

    def __init__(self, config: Config):
        super().__init__(config)
        if config.form not in ("coupling", "autoregressive"):
            raise ValueError(f"NSF: form must be 'coupling' or 'autoregressive'; got {config.form!r}.")
        if len(config.shape) == 3 and config.form == "coupling":
            check_halvings("NSF", config.shape, config.scales)
            self.flow = level(config.shape[0], config.scales, config)
            return
        size = math.prod(config.shape)
        if size < 2:
            raise ValueError(f"NSF: a vector must have 2 numbers or more; got shape={config.shape}.")
        layers = vector_flow(size, config)
        if len(config.shape) > 1:
            layers = [Flatten(tuple(config.shape)), *layers]
            self.prior = gaussian_base((size,), config.classes)
        self.flow = FlowSequential(*layers, policy=config.policy, every=config.every)


PRESETS = {
    "nsf": Config(),
    "nsf-mnist": Config(shape=(1, 28, 28), scales=2, steps=4, hidden=64, blocks=2),
    "nsf-small": Config(shape=(1, 8, 8), levels=17, scales=2, steps=4, hidden=48, blocks=1, dropout=0.1),
    "nsf-2d": Config(shape=(2,), levels=None, steps=4, hidden=64, blocks=1, dropout=0.0, linear=False),
    "nsf-ar-2d": Config(
        shape=(2,), levels=None, steps=2, form="autoregressive", hidden=64, blocks=1, dropout=0.0, linear=False
    ),
}
