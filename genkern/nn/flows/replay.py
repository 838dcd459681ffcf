"""Running a layer a second time exactly as the first: autocast, random numbers, running statistics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ... import random


class Autocast:
    """The autocast state at one moment.

    Without its cache of casts: a cast made while gradients are off would be used again where they are on.
    """

    def __init__(self, device_type: str):
        self.device_type = device_type
        self.enabled = torch.is_autocast_enabled(device_type)
        self.dtype = torch.get_autocast_dtype(device_type)

    def restored(self) -> torch.autocast:
        return torch.autocast(self.device_type, dtype=self.dtype, enabled=self.enabled, cache_enabled=False)


class RandomStates:
    """The generators' states before each layer (and after the last), held once where they do not change."""

    def __init__(self, device: torch.device):
        self.device = device
        self.states: list[tuple[Tensor, ...]] = []

    def record(self) -> None:
        state = tuple(self._read())
        if self.states and all(map(torch.equal, state, self.states[-1])):
            state = self.states[-1]
        self.states.append(state)

    @contextmanager
    def forked(self) -> Iterator[None]:
        """Leaves the generators as they were on entry."""
        before = tuple(self._read())
        try:
            yield
        finally:
            self._write(before)

    def restore(self, i: int) -> None:
        if self.states[0] is not self.states[-1]:  # something did draw
            self._write(self.states[i])

    def _read(self) -> Iterator[Tensor]:
        yield torch.get_rng_state()
        if self.device.type == "cuda":
            yield torch.cuda.get_rng_state(self.device)

    def _write(self, state: tuple[Tensor, ...]) -> None:
        torch.set_rng_state(state[0])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state[1], self.device)


@contextmanager
def noise_of(flow: nn.Module, key: Tensor | None, sample_offset: int = 0) -> Iterator[None]:
    """What the layers inside draw to estimate a log-determinant follows from the key; other flows run as ever.

    Such layers set ``draws_noise`` and draw by ``random.key_from()``, counting samples from their ``sample_offset``:
    from torch's generator, which is what a second run in the backward pass sets back.
    """
    noisy = [layer for layer in flow.modules() if getattr(layer, "draws_noise", False)]
    for layer in noisy:
        layer.sample_offset = sample_offset  # type: ignore[assignment]
    if not noisy or key is None:
        yield
        return
    seed = int(key) % 2**63
    with RandomStates(key.device).forked():
        torch.default_generator.manual_seed(seed)
        if key.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        yield


def rademacher(key: Tensor, x: Tensor, sample_offset: int) -> Tensor:
    """Random signs like ``x``, ``[B, *]``."""
    u = random.uniform(key, x.shape, dtype=torch.promote_types(x.dtype, torch.float32), sample_offset=sample_offset)
    return torch.where(u < 0.5, -1.0, 1.0).to(x.dtype)  # not by the sign of u - 0.5, which can be zero


def updates_statistics(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Modules that move running statistics (the batch norms) when they run in training mode."""
    inner = (m for module in modules for m in module.modules())
    return [m for m in inner if m.training and any(name.startswith("running_") for name in m._buffers)]


@contextmanager
def frozen_statistics(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Batch norms in training still normalise by the batch, but it is copies of their statistics that move."""
    kept = [(module, module._buffers) for module in updates_statistics(modules)]
    for module, buffers in kept:
        module._buffers = {name: None if b is None else b.clone() for name, b in buffers.items()}
    try:
        yield
    finally:
        for module, buffers in kept:
            module._buffers = buffers


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; each submodule gets its own mode back."""
    modes = [(inner, inner.training) for inner in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for inner, training in modes:
            inner.training = training
