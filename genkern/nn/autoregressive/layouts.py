"""Where the channels of a value lie in its vector, in a program of `genkern.ops.causal_sample`."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .masked import sub_pixel_of

LANES = 16  # a group's channels are padded to a multiple of it


class Untraceable(ValueError):
    """The network has a part that is not a causal layer, or not one that can be sampled with a cache."""


class Layout(NamedTuple):
    """Parts, in each the groups, in each its channels, padded."""

    channels: int
    parts: int = 1
    groups: int = 1
    order: str = "contiguous"

    @property
    def width(self) -> int:
        exact = self.channels // (self.parts * self.groups)
        return (exact + LANES - 1) // LANES * LANES

    @property
    def size(self) -> int:
        return self.parts * self.groups * self.width

    def positions(self) -> Tensor:
        """Of each channel within the vector."""
        each = self.channels // self.parts
        part, rest = torch.arange(self.channels) // each, torch.arange(self.channels) % each
        if self.order == "interleaved":
            group, index = rest % self.groups, rest // self.groups
        else:
            group, index = rest // (each // self.groups), rest % (each // self.groups)
        return (part * self.groups + group) * self.width + index

    def of_part(self, count: int) -> Layout:
        """Of each of ``count`` pieces, one after the other."""
        if self.channels % count or self.parts % count:
            raise Untraceable(f"sample: {self} does not divide into {count} pieces.")
        return Layout(self.channels // count, self.parts // count, self.groups, self.order)

    def times(self, count: int) -> Layout:
        """Of ``count`` such pieces, one after the other."""
        return Layout(self.channels * count, self.parts * count, self.groups, self.order)

    def cut(self, count: int) -> Layout:
        """With parts enough for ``count`` pieces."""
        return self if self.parts % count == 0 else self._replace(parts=self.parts * count)


def layout_of(sub_pixel: Tensor, sub_pixels: int) -> Layout:
    """The layout whose channels belong to these sub-pixels."""
    channels = len(sub_pixel)
    for parts in range(1, channels + 1):
        for order in ("contiguous", "interleaved"):
            if channels % (parts * sub_pixels) == 0:
                if torch.equal(sub_pixel_of(channels, sub_pixels, order, parts=parts), sub_pixel.cpu()):
                    return Layout(channels, parts, sub_pixels, order)
    raise Untraceable(f"sample: no layout has the sub-pixels {sub_pixel.tolist()}.")


def joined(one: Layout | None, other: Layout) -> Layout:
    if one is None:
        return other
    if one.channels != other.channels:
        raise Untraceable(f"sample: values of {one.channels} and {other.channels} channels meet.")
    first, second = (one, other) if one.groups >= other.groups else (other, one)
    return first._replace(parts=max(first.parts, second.parts))
