"""Where the chains of an energy model start: states of earlier chains, and now and then a new one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ... import random

SLOTS, CHOICES, FRESH = range(3)  # folded into a key: what it draws


class ReplayBuffer(nn.Module):
    r"""The last states of earlier chains, in one tensor on the device.

    `draw` takes states of distinct slots, of which a share :math:`\rho` is replaced by uniform noise; `store` puts them
    back where they were. Nothing is read on the host, and what is drawn follows from the key, so a chain is one
    uninterrupted stream of kernels. The states are a buffer of the module: a checkpoint holds them, and a run that is
    resumed goes on with the same chains, bit for bit.

    Several processes that draw with the same key and their own ``sample_offset`` take different slots; `store` then
    gathers what all of them have found, so that their buffers stay equal.

    Args:
        size: how many states (10 000 in IGEBM and JEM).
        shape: of one of them.
        reinit: :math:`\rho`, the share of new chains (0.05).
        low, high: ends of the uniform noise from which chains begin.

    Tieleman 2008 (persistent chains); Du & Mordatch 2019 (arXiv:1903.08689), section 3.2.

    >>> buffer = ReplayBuffer(100, (2,))
    >>> x, slots = buffer.draw(8, key=random.key(0))
    >>> buffer.store(x + 0.1, slots)
    """

    states: Tensor

    def __init__(self, size: int, shape: tuple[int, ...], *, reinit: float = 0.05, low: float = 0.0, high: float = 1.0):
        super().__init__()
        if size < 1 or not 0 <= reinit <= 1 or not low < high:
            raise ValueError(
                f"ReplayBuffer: wanted size >= 1, reinit in [0, 1] and low < high; got {size}, {reinit}, {low}, {high}."
            )
        self.size, self.reinit, self.low, self.high = size, reinit, low, high
        self.register_buffer("states", self.fresh(random.key(0), (size, *shape)))

    def fresh(self, key: Tensor, shape: tuple[int, ...], sample_offset: int = 0) -> Tensor:
        """Uniform noise, from which a chain begins."""
        u = random.uniform(key, shape, sample_offset=sample_offset)
        return self.low + (self.high - self.low) * u

    @torch.no_grad()
    def draw(self, n: int, *, key: Tensor, sample_offset: int = 0) -> tuple[Tensor, Tensor]:
        """States to begin with, ``[n, *shape]``, and the slots that they are for, ``[n]``, all different.

        Args:
            n: at most ``size``.
            key: of the slots, and of which are replaced by what.
            sample_offset: number of the first, where this is a part of a larger batch; the batch fits the buffer.
        """
        if n + sample_offset > self.size:
            raise ValueError(
                f"ReplayBuffer.draw: n + sample_offset must be at most {self.size}; got {n + sample_offset}."
            )
        order = random.uniform(random.fold_in(key, SLOTS), self.size).argsort(stable=True)
        slots = order[sample_offset : sample_offset + n]
        shape = (n, *self.states.shape[1:])
        new = random.uniform(random.fold_in(key, CHOICES), (n, 1), sample_offset=sample_offset) < self.reinit
        fresh = self.fresh(random.fold_in(key, FRESH), shape, sample_offset).to(self.states.dtype)
        return torch.where(new.reshape(n, *[1] * (len(shape) - 1)), fresh, self.states[slots]), slots

    @torch.no_grad()
    def store(self, x: Tensor, slots: Tensor) -> None:
        """Puts states into the slots that `draw` gave."""
        x = x.detach().to(self.states.dtype)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            x, slots = _gathered(x), _gathered(slots)
        self.states.index_copy_(0, slots, x)

    def extra_repr(self) -> str:
        return f"size={self.size}, shape={tuple(self.states.shape[1:])}, reinit={self.reinit}"


def _gathered(tensor: Tensor) -> Tensor:
    parts = [torch.empty_like(tensor) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)
