"""The order of the data as a pure function: of the key, the epoch, and nothing that a killed run could lose."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import random


class BatchOrder:
    """Which samples make the batch of a step; an epoch leaves out the samples that do not fill a batch."""

    def __init__(self, n: int, batch_size: int, key: Tensor):
        if batch_size > n:
            raise ValueError(f"--batch-size must be at most the {n} training samples, got {batch_size}.")
        self.n, self.batch_size, self.key = n, batch_size, key
        self.steps_per_epoch = n // batch_size
        self._epoch, self._order = -1, torch.empty(0)

    def epoch(self, epoch: int) -> Tensor:
        """A permutation of 0..n-1: the order of 64-bit hashes of (key, epoch, sample)."""
        if epoch != self._epoch:
            hashes = random.fold_in(random.fold_in(self.key, epoch), torch.arange(self.n, device=self.key.device))
            self._epoch, self._order = epoch, hashes.argsort(stable=True)
        return self._order

    def batch(self, step: int) -> Tensor:
        """Indices ``[batch_size]`` of the whole batch; a process takes its part of them."""
        epoch, i = divmod(step, self.steps_per_epoch)
        return self.epoch(epoch)[i * self.batch_size : (i + 1) * self.batch_size]
