"""What energy-based models share: an unnormalised density, chains that draw from it, and the memory of the chains."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ... import ops, random
from ...nn import ConvEnergy, ReplayBuffer, ResidualEnergy, langevin, score_of
from .._base import GenerativeModel

BINS, NOISE, START, CHAIN = range(4)  # folded into a key: what it draws


class EnergyModel(GenerativeModel):
    r"""A density :math:`p(x) \propto e^{-E(x)}` by its energy, a network from pictures to numbers.

    A family defines `energy_at`, in the space of its network: pixels are spread over their bins and brought to ``low``
    to ``high``, vectors are as the data set holds them. Its config has ``shape`` and ``levels``.

    No held-out value says how good an energy is (its constant is unknown), so training keeps the last weights.
    """

    validates = False
    low, high = 0.0, 1.0  # where pixels lie, in the network's space

    def energy_at(self, v: Tensor) -> Tensor:
        """Energies of points in the network's space, ``[B, *shape]`` to ``[B]``."""
        raise NotImplementedError(f"{type(self).__name__} has no energy_at.")

    def energy(self, x: Tensor) -> Tensor:
        """Energies ``[B]`` of data as the data set holds them, pixels amid their bins: low where data are likely."""
        return self.energy_at(self.scale(x))

    def scale(self, x: Tensor, *, key: Tensor | None = None, sample_offset: int = 0) -> Tensor:
        """Data to the network's space; integer pixels amid their bins, or with a key anywhere in them."""
        config = self._check(x)
        if config.levels is None:
            return x.to(self.dtype)
        if key is None:
            u = (x.to(self.dtype) + 0.5) / config.levels
        else:
            u, _ = ops.dequantize(x, config.levels, key=key, sample_offset=sample_offset, dtype=self.dtype)
        return self.low + (self.high - self.low) * u

    def unscale(self, v: Tensor) -> Tensor:
        """The integer pixels in whose bins points lie; vectors as they are."""
        if self.config.levels is None:
            return v
        return ops.quantize((v - self.low) / (self.high - self.low), self.config.levels)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def _check(self, x: Tensor) -> Any:
        config, name = self.config, type(self).__name__
        if tuple(x.shape[1:]) != tuple(config.shape):
            raise ValueError(f"{name}: x must be {['B', *config.shape]}; got {list(x.shape)}.")
        if x.is_floating_point() == (config.levels is not None):
            wanted = "floating-point vectors" if config.levels is None else f"integer pixels in [0, {config.levels})"
            raise TypeError(f"{name}: x must be {wanted}; got {x.dtype}.")
        return config


class PersistentEnergyModel(EnergyModel):
    r"""An energy that is trained by the states of persistent chains (contrastive divergence).

    .. math:: \nabla \mathcal{L} = \mathbb{E}_{data} \nabla E(x) - \mathbb{E}_{chain} \nabla E(x)

    The config has ``steps``, ``step`` and ``noise`` of a chain, ``buffer`` and ``reinit`` of its `ReplayBuffer`. A
    chain carries no graph. Outside training chains rest, and the loss compares data with the states that are there.
    """

    replay: ReplayBuffer
    clamp_grad: float | None = None
    clamp: tuple[float, float] | None = None
    order = "noise-last"

    def make_buffer(self) -> ReplayBuffer:
        config = self.config
        return ReplayBuffer(config.buffer, config.shape, reinit=config.reinit, low=self.low, high=self.high)

    def chain(
        self, v: Tensor, *, key: Tensor, steps: int | None = None, sample_offset: int = 0, temperature: float = 1.0
    ) -> Tensor:
        """Langevin dynamics in the network's space, from ``v`` on; ``steps`` of the config's, or as many as given."""
        config = self.config
        with at_rest(self):
            return langevin(
                lambda x: score_of(self.energy_at, x),
                v,
                steps=config.steps if steps is None else steps,
                step=config.step,
                scale=config.noise * temperature**0.5,
                key=key,
                sample_offset=sample_offset,
                clamp_grad=self.clamp_grad,
                clamp=self.clamp,
                order=self.order,
            )

    def negatives(self, n: int, *, key: Tensor, sample_offset: int = 0) -> Tensor:
        """States of the chains, ``[n, *shape]``: in training after some more steps, which the buffer keeps."""
        if not self.training:
            return self.resting(n, key=key, sample_offset=sample_offset)
        v, slots = self.replay.draw(n, key=random.fold_in(key, START), sample_offset=sample_offset)
        v = self.chain(v.to(self.dtype), key=random.fold_in(key, CHAIN), sample_offset=sample_offset)
        self.replay.store(v, slots)
        return v

    def resting(self, n: int, *, key: Tensor, sample_offset: int = 0) -> Tensor:
        """States of the buffer as they are: any of them for each sample."""
        u = random.uniform(random.fold_in(key, START), (n, 1), sample_offset=sample_offset)[:, 0]
        slots = (u.double() * self.replay.size).long().clamp(max=self.replay.size - 1)
        return self.replay.states[slots].to(self.dtype)

    def contrast(self, data: Tensor, model: Tensor) -> tuple[Tensor, Tensor]:
        """Energies of data and of the chains' states, ``[B]`` each, from one pass."""
        energies = self.energy_at(torch.cat([data, model]))
        return energies[: len(data)], energies[len(data) :]

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        key: Tensor,
        temperature: float = 1.0,
        steps: int | None = None,
        start: str = "buffer",
        sample_offset: int = 0,
    ) -> Tensor:
        """``n`` last states of chains, in data space; each depends on the key and its number alone.

        Args:
            key: from `genkern.random.key`.
            temperature: scales the variance of the noise in these steps.
            steps: of the chain; None: those of training.
            start: ``"buffer"``, states that training left, or ``"noise"``, for which ``steps`` must be many.
            sample_offset: number of the first sample.
        """
        if start not in ("buffer", "noise"):
            raise ValueError(f"{type(self).__name__}.sample: start must be 'buffer' or 'noise'; got {start!r}.")
        if start == "buffer":
            v = self.resting(n, key=key, sample_offset=sample_offset)
        else:
            shape = (n, *self.config.shape)
            v = self.replay.fresh(random.fold_in(key, START), shape, sample_offset).to(self.dtype)
        number = random.fold_in(key, CHAIN)
        v = self.chain(v, key=number, steps=steps, sample_offset=sample_offset, temperature=temperature)
        return self.unscale(v)


def energy_network(config: Any, outputs: int, *, spectral: bool, pool: str) -> nn.Module:
    """The network that a config names: ``"residual"`` (paper scale) or ``"conv"`` (small)."""
    shape, channels = tuple(config.shape), tuple(config.channels)
    if config.network == "conv":
        return ConvEnergy(shape, outputs, channels)
    if config.network != "residual":
        raise ValueError(f"network must be 'residual' or 'conv'; got {config.network!r}.")
    return ResidualEnergy(shape, outputs, channels, config.blocks, spectral=spectral, pool=pool)


def vector_network(shape: tuple[int, ...], hidden: tuple[int, ...]) -> nn.Sequential:
    """A smooth network of vectors (or of pictures taken for vectors): ``[B, *shape]`` to ``[B, 1]``."""
    widths = [math.prod(shape), *hidden]
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(inputs, outputs), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 1))


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """Weights as a chain needs them: in evaluation mode, spectral norms computed once."""
    training = model.training
    model.eval()
    try:
        with parametrize.cached():
            yield
    finally:
        model.train(training)
