"""Distribution Augmentation for Generative Modeling. Jun et al. 2020 (ICML).

Training pictures are transformed, and the model is told how: it learns the distribution of each kind of transformed
picture, and is asked about the untransformed kind. Each type of transformation has ids, of which 0 is the identity.
Every transformation permutes the sub-pixels of a picture, so that a picture, or the positions of its sub-pixels, are
transformed by one gather.
"""

from __future__ import annotations

from itertools import permutations

import torch
from torch import Tensor, nn

from ... import random

TYPES = ("rotation", "transposition", "colours", "jigsaw")


class DistAug(nn.Module):
    """The augmentations of a kind of picture, and their random choice.

    Args:
        shape: of a picture, ``(C, H, W)``.
        types: among ``"rotation"`` by quarter turns (4 ids) and ``"transposition"`` (2), both of square pictures,
            permutations of the ``"colours"`` (6 of R, G, B), and the ``"jigsaw"`` of four quarters (24).
        unaugmented: share of the pictures that no type transforms: each leaves alone its root of that.

    >>> augment = DistAug((1, 4, 4), ("rotation", "jigsaw"))
    >>> ids = augment.draw(3, key=random.key(0))
    >>> augment(torch.arange(16).view(1, 1, 4, 4).expand(3, -1, -1, -1), ids).shape
    torch.Size([3, 1, 4, 4])
    """

    def __init__(self, shape: tuple[int, ...], types: tuple[str, ...], unaugmented: float = 0.5):
        super().__init__()
        self.shape, self.types = tuple(shape), types
        self.stay = unaugmented ** (1 / max(len(types), 1))
        for name in types:
            self.register_buffer(name, _table(name, self.shape), persistent=False)  # [ids, sub-pixels]

    @property
    def counts(self) -> list[int]:
        """How many ids each type has."""
        return [len(getattr(self, name)) for name in self.types]

    def draw(self, n: int, *, key: Tensor, sample_offset: int = 0) -> Tensor:
        """Random ids, ``[n, types]``: of each type 0, or with equal chances another."""
        u = random.uniform(key, (n, len(self.types)), sample_offset=sample_offset)
        others = torch.tensor(self.counts, device=u.device) - 1
        drawn = ((u - self.stay) / (1 - self.stay) * others).floor().clamp(max=others - 1) + 1
        return torch.where(u < self.stay, 0, drawn).long()

    def permutation(self, ids: Tensor) -> Tensor:
        """Where each sub-pixel of the transformed picture comes from, ``[n, C * H * W]``."""
        size = self.shape[0] * self.shape[1] * self.shape[2]
        found = torch.arange(size, device=ids.device).expand(len(ids), size)
        for t, name in enumerate(self.types):
            found = found.gather(1, getattr(self, name)[ids[:, t]])
        return found

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        """The transformed pictures, ``[n, C, H, W]``: each type in turn."""
        return x.flatten(1).gather(1, self.permutation(ids)).view(x.shape)


def _table(name: str, shape: tuple[int, ...]) -> Tensor:
    """Where sub-pixels come from, for every id of a type."""
    place = torch.arange(shape[0] * shape[1] * shape[2]).view(shape)
    if name in ("rotation", "transposition"):
        if shape[1] != shape[2]:
            raise ValueError(f"DistAug: shape must be that of square pictures for a {name}; got {shape}.")
        if name == "rotation":
            moved = [torch.rot90(place, quarter, (1, 2)) for quarter in range(4)]
        else:
            moved = [place, place.mT]
    elif name == "colours":
        if shape[0] < 2:
            raise ValueError(f"DistAug: shape must have colours to permute; got {shape}.")
        moved = [place[list(order)] for order in permutations(range(shape[0]))]
    elif name == "jigsaw":
        if shape[1] % 2 or shape[2] % 2:
            raise ValueError(f"DistAug: shape must halve for a jigsaw; got {shape}.")
        quarters = [quarter for half in place.chunk(2, 1) for quarter in half.chunk(2, 2)]
        moved = []
        for a, b, c, d in permutations(quarters):
            moved.append(torch.cat([torch.cat([a, b], 2), torch.cat([c, d], 2)], 1))
    else:
        raise ValueError(f"DistAug: types must be among {TYPES}; got {name!r}.")
    return torch.stack([m.flatten() for m in moved])
