"""Does a model look at what it is to predict, and does it look at all that comes before? Asked of its Jacobian."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .masked import sub_pixel_of

Position = tuple[int, int, int]  # channel, row, column
CHUNK = 64  # rows of the Jacobian at a time


@dataclass(frozen=True)
class Causality:
    """What `check_causality` found; true where there is no leak.

    Args:
        leaks: pairs (output, input) where an output depends on its own sub-pixel or a later one.
        unseen: pairs where an output does not depend on an earlier sub-pixel; a blind spot, if the network is deep
            enough to reach it.
        pairs: how many earlier pairs there are.
    """

    leaks: list[tuple[Position, Position]] = field(repr=False)
    unseen: list[tuple[Position, Position]] = field(repr=False)
    pairs: int = 0

    def __bool__(self) -> bool:
        return not self.leaks

    def blind_offsets(self) -> dict[tuple[int, int], int]:
        """How often each offset (rows down, columns right) of another pixel is not seen."""
        counts: dict[tuple[int, int], int] = {}
        for (_, row, column), (_, i, j) in self.unseen:
            offset = (i - row, j - column)
            counts[offset] = counts.get(offset, 0) + 1
        return dict(sorted(counts.items()))

    def __str__(self) -> str:
        def say(pair: tuple[Position, Position]) -> str:
            return f"output {pair[0]} depends on input {pair[1]}"

        leaks = f"{len(self.leaks)} leaks" + (f", such as: {say(self.leaks[0])}" if self.leaks else "")
        return (
            f"{leaks}; sees {self.pairs - len(self.unseen)} of {self.pairs} earlier sub-pixels (channel, row, column)"
        )


def check_causality(
    function: nn.Module | Callable[[Tensor], Tensor],
    shape: Sequence[int] | None = None,
    *,
    sub_pixels: bool | None = None,
    layout: str = "contiguous",
    probes: int = 2,
    inputs: int | None = None,
    seed: int = 0,
) -> Causality:
    r"""Leaks and blind spots of an autoregressive model, from the Jacobian of its outputs by its inputs.

    .. math:: \partial f_{c,i,j} / \partial x_{d,k,l} = 0 \quad\text{unless}\quad (k, l, d) < (i, j, c)

    in raster order, sub-pixels innermost; in float64, at random inputs, with every parameter moved a little, so that a
    weight that starts at zero hides nothing. NaN counts as a dependence.

    Args:
        function: a function or a network, from ``[B, C, H, W]`` to ``[B, P, C, H, W]`` or ``[B, P, H, W]``, whose
            samples do not influence each other; or a model of `genkern.models` with ``logits`` of integer pixels,
            whose Jacobian is one of differences: does any logit change with the pixel?
        shape: of one picture, ``(C, H, W)``; None for a model, whose config says it.
        sub_pixels: whether outputs belong to sub-pixels, which may see those before them in the same pixel; if not, no
            sub-pixel of the pixel may be seen. None: as the model says; for a function, True.
        layout: of the ``P`` channels of ``[B, P, H, W]`` among sub-pixels; see `sub_pixel_of`.
        probes: how many random inputs.
        inputs: how many input sub-pixels to look at, drawn at random; None: all of them.
        seed: of all that is random.

    Returns:
        A report, true where nothing leaks; printed, it says what leaks and how much is seen.

    >>> from genkern.nn import MaskedConv2d
    >>> print(check_causality(MaskedConv2d(1, 4, 3, mask="A"), (1, 4, 4)))
    0 leaks; sees 42 of 120 earlier sub-pixels (channel, row, column)
    >>> print(check_causality(MaskedConv2d(1, 4, 3, mask="B"), (1, 4, 4)).leaks[0])
    ((0, 0, 0), (0, 0, 0))
    """
    config: Any = getattr(function, "config", None)
    if shape is None and config is None:
        raise ValueError("check_causality: shape must be given where function is not a model with a config.")
    channels, height, width = shape if shape is not None else config.shape
    is_model = config is not None and hasattr(function, "logits")
    if sub_pixels is None:
        sub_pixels = not (is_model and getattr(function, "joint", False))
    generator = torch.Generator().manual_seed(seed)
    size = channels * height * width
    chosen = torch.arange(size) if inputs is None else torch.randperm(size, generator=generator)[:inputs].sort().values
    moved = _moved(function, generator) if isinstance(function, nn.Module) else function
    groups = channels if sub_pixels else 1
    depends = torch.zeros(groups, height, width, size, dtype=torch.bool)  # on which input
    for _ in range(probes):
        if is_model:
            columns: Iterator[tuple[int, Tensor]] = _by_differences(moved, (channels, height, width), chosen, generator)
        else:
            columns = _by_jacobian(moved, (channels, height, width), chosen, generator)
        for place, column in columns:
            depends[..., place] |= _by_sub_pixel(column, groups, (height, width), layout)

    pixel = torch.arange(height * width).view(height, width)
    output_order = pixel * channels + (torch.arange(groups)[:, None, None] if sub_pixels else 0)  # [groups, H, W]
    input_order = (pixel * channels + torch.arange(channels)[:, None, None]).flatten()[chosen]
    earlier = input_order < output_order[..., None]  # [groups, H, W, inputs]
    depends = depends[..., chosen]

    def pairs(where: Tensor) -> list[tuple[Position, Position]]:
        found = where.nonzero()
        places = chosen[found[:, 3]]
        d, i, j = places // (height * width), places // width % height, places % width
        return [((a, b, c), (e, f, g)) for a, b, c, e, f, g in torch.stack([*found[:, :3].T, d, i, j], 1).tolist()]

    return Causality(pairs(depends & ~earlier), pairs(~depends & earlier), int(earlier.sum()))


def _moved(module: nn.Module, generator: torch.Generator) -> nn.Module:
    """A copy in float64 and evaluation mode, with parameters of no special values."""
    module = copy.deepcopy(module).double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            spread = 0.1 + parameter.std().item() if parameter.numel() > 1 else 0.1
            parameter.add_(spread * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return module


def _by_jacobian(
    function: Any, shape: tuple[int, int, int], chosen: Tensor, generator: torch.Generator
) -> Iterator[tuple[int, Tensor]]:
    """Where columns of the Jacobian are not zero, as ``(input, [P, ...])``; by the pullback's transpose."""
    x = 2 * torch.rand(1, *shape, generator=generator, dtype=torch.float64) - 1
    for part in chosen.split(CHUNK):
        many = x.expand(len(part), *shape).clone().requires_grad_()
        y = function(many)
        u = torch.zeros_like(y, requires_grad=True)
        (pulled,) = torch.autograd.grad(y, many, u, create_graph=True, allow_unused=True, materialize_grads=True)
        tangents = torch.zeros(len(part), many[0].numel(), dtype=torch.float64)
        tangents[torch.arange(len(part)), part] = 1
        if not pulled.requires_grad:
            continue  # the outputs are constants
        (columns,) = torch.autograd.grad(pulled, u, tangents.view_as(pulled), allow_unused=True, materialize_grads=True)
        yield from zip(part.tolist(), columns != 0, strict=True)


@torch.no_grad()
def _by_differences(
    model: Any, shape: tuple[int, int, int], chosen: Tensor, generator: torch.Generator
) -> Iterator[tuple[int, Tensor]]:
    """The same for a model of integer pixels: what changes, beyond rounding, with a pixel."""
    levels = model.config.levels
    x = torch.randint(0, levels, (1, *shape), generator=generator)
    y = None if getattr(model.config, "classes", None) is None else torch.zeros(1, dtype=torch.int64)
    before = model.logits(x, y)
    for part in chosen.split(CHUNK):
        many = x.repeat(len(part), 1, 1, 1).flatten(1)
        step = torch.randint(1, levels, (len(part),), generator=generator)
        many[torch.arange(len(part)), part] = (many[torch.arange(len(part)), part] + step) % levels
        after = model.logits(many.view(-1, *shape), None if y is None else y.expand(len(part)))
        yield from zip(part.tolist(), ~((after - before).abs() <= 1e-11 * before.abs().max()), strict=True)


def _by_sub_pixel(column: Tensor, groups: int, size: tuple[int, int], layout: str) -> Tensor:
    """Any of the parameters of each sub-pixel, ``[groups, H, W]``."""
    if (
        tuple(column.shape[-2:]) != size
        or column.dim() not in (3, 4)
        or (column.dim() == 4 and column.shape[1] < groups)
    ):
        raise ValueError(
            f"check_causality: function must give [B, P, C, {size[0]}, {size[1]}] or [B, P, {size[0]}, {size[1]}];"
            f" got ['B', {', '.join(map(str, column.shape))}]."
        )
    if column.dim() == 4:  # [P, C, H, W]
        return column.any(0) if groups > 1 else column.flatten(0, 1).any(0, keepdim=True)
    group = sub_pixel_of(len(column), groups, layout)
    return torch.stack([column[group == g].any(0) for g in range(groups)])
