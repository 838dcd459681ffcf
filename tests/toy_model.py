"""The smallest model of the protocol, for tests of what is around models: every pixel has logits of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from genkern.models import Batch, GenerativeModel, Loss, as_batch


@dataclass(frozen=True)
class Optics:
    blur: float = 0.5
    sizes: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Config:
    shape: tuple[int, ...] = (1, 8, 8)
    levels: int | None = 17
    optics: Optics | None = None


class Pixels(GenerativeModel):
    """A categorical for every pixel, or a Gaussian for every coordinate of a vector."""

    config_class = Config

    def __init__(self, config: Config):
        super().__init__(config)
        self.logits = nn.Parameter(torch.zeros(*config.shape, config.levels or 2))
        self.register_buffer("initialized", torch.tensor(False))

    def log_prob(self, x: Tensor, *, key: Tensor | None = None) -> Tensor:
        if self.config.levels:
            table = self.logits.float().log_softmax(-1).expand(*x.shape, -1)
            return table.gather(-1, x.long()[..., None]).flatten(1).sum(1)
        mean, log_std = self.logits.unbind(-1)
        return (-0.5 * ((x - mean) / log_std.exp()) ** 2 - log_std - 0.5 * math.log(2 * math.pi)).flatten(1).sum(1)

    def loss(self, batch: Batch | Tensor, *, key: Tensor | None = None, sample_offset: int = 0) -> Loss:
        x = as_batch(batch).x
        nll = -self.log_prob(x).mean()
        return Loss(nll, {"nll": nll.detach()})

    @torch.no_grad()
    def sample(self, n: int, *, key: Tensor, temperature: float = 1.0) -> Tensor:
        generator = torch.Generator().manual_seed(int(key))
        if self.config.levels:
            probabilities = (self.logits / max(temperature, 1e-3)).softmax(-1).reshape(-1, self.config.levels)
            draws = torch.multinomial(probabilities, n, replacement=True, generator=generator)
            return draws.T.reshape(n, *self.config.shape)
        mean, log_std = self.logits.unbind(-1)
        return mean + temperature * log_std.exp() * torch.randn(n, *self.config.shape, generator=generator)

    def initialize(self, batch: Batch | Tensor, *, key: Tensor | None = None) -> None:
        self.initialized.fill_(True)


PRESETS = {"toy-pixels": Config(), "toy-vectors": Config(shape=(2,), levels=None)}
