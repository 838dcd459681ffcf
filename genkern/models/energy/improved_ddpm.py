"""Improved Denoising Diffusion Probabilistic Models. Nichol & Dhariwal 2021 (arXiv:2102.09672).

Three changes to the chain of Ho et al.: the variance of a step is learned, between the two bounds that are known
(section 3.1), the noise follows a cosine (3.2), and the likelihood's bound can be trained, with steps drawn as often
as their terms are uncertain (3.3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ... import random
from .._base import Batch, Loss, as_batch
from ._base import NOISE, TIME
from .ddpm import DDPM
from .ddpm import Config as DDPMConfig

OBJECTIVES = ("hybrid", "vlb")


@dataclass(frozen=True)
class Config(DDPMConfig):
    timesteps: int = 4000  # T
    schedule: str = "cosine"
    variance: str = "learned_range"
    scale_shift: bool = True
    blocks: int = 3
    attention: tuple[int, ...] = (16, 8)
    heads: int = 4
    dropout: float = 0.3
    objective: str = "hybrid"  # L_simple + lambda L_vlb; or "vlb", with importance sampling of the steps
    vlb_weight: float = 0.001  # lambda
    history: int = 10  # terms of the bound that are remembered of each step
    uniform: float = 0.001  # how often a step is drawn without looking at them


class ImprovedDDPM(DDPM):
    config_class = Config
    terms: Tensor  # the last terms of the bound of each step in bits per dimension, [T, history]
    counts: Tensor  # how many there have been, [T]

    def __init__(self, config: Config):
        super().__init__(config)
        if config.objective not in OBJECTIVES:
            raise ValueError(f"ImprovedDDPM: objective must be one of {OBJECTIVES}; got {config.objective!r}.")
        if config.variance != "learned_range":
            raise ValueError(f"ImprovedDDPM: variance must be 'learned_range'; got {config.variance!r}.")
        if config.objective == "vlb":
            self.register_buffer("terms", torch.zeros(config.timesteps, config.history))
            self.register_buffer("counts", torch.zeros(config.timesteps, dtype=torch.int64))

    def loss(self, batch: Batch | Tensor, *, key: Tensor | None = None, sample_offset: int = 0) -> Loss:
        r"""The hybrid :math:`L_\text{simple} + \lambda L_\text{vlb}` (equation 16), or the bound alone.

        In the hybrid the bound trains the variance only: the mean that it sees is detached.
        """
        x, y = as_batch(batch)
        key = random.key_from(device=x.device) if key is None else key
        x0, y = self.scale(x), self.training_labels(y, len(x), key, sample_offset)
        t, weight = self.draw_times(len(x), key, sample_offset)
        noise = random.fold_in(key, NOISE)
        x_t = self.noisy(x0, t, noise, sample_offset)
        output = self.network(x_t, self.time(t), y)
        bits = 1 / (x0[0].numel() * math.log(2))
        if self.config.objective == "vlb":
            terms = bits * self.bound(output, x0, x_t, t)
            if self.training:
                self.remember(t, terms.detach())
            vlb = self.config.timesteps * (terms if weight is None else weight * terms).mean()
            return Loss(vlb, {"vlb": vlb.detach()})
        prediction, variance = output.chunk(2, dim=1)
        simple = self.simple_loss(prediction, x0, t, noise, sample_offset).mean()
        detached = torch.cat([prediction.detach(), variance], dim=1)
        vlb = self.config.timesteps * bits * self.bound(detached, x0, x_t, t).mean()
        return Loss(simple + self.config.vlb_weight * vlb, {"mse": simple.detach(), "vlb": vlb.detach()})

    def draw_times(self, n: int, key: Tensor, sample_offset: int = 0) -> tuple[Tensor, Tensor | None]:
        r"""Steps with :math:`p_t \propto \sqrt{\mathbb{E} L_t^2}` and weights :math:`1 / (T p_t)` (equation 18).

        Evenly, until every step has a full history.
        """
        if self.config.objective != "vlb" or not self.training:
            return super().draw_times(n, key, sample_offset)
        even = torch.full_like(self.terms[:, 0], 1 / self.config.timesteps)
        size = self.terms.square().mean(1).sqrt()
        learned = (1 - self.config.uniform) * size / size.sum().clamp(min=1e-30) + self.config.uniform * even
        p = torch.where((self.counts >= self.config.history).all(), learned, even)
        draws = random.uniform(random.fold_in(key, TIME), (n, 1), sample_offset=sample_offset)[:, 0]
        cumulative = p.double().cumsum(0)
        t = torch.searchsorted(cumulative, draws.double() * cumulative[-1], right=True)
        t = t.clamp(max=self.config.timesteps - 1)
        return t, 1 / (self.config.timesteps * p[t])

    @torch.no_grad()
    def remember(self, t: Tensor, terms: Tensor) -> None:
        """Puts the terms of a batch, of all processes, into the histories of their steps, over the oldest ones."""
        t, terms = gathered(t), gathered(terms.to(self.terms.dtype))
        order = t.argsort(stable=True)
        t, terms = t[order], terms[order]
        size = torch.bincount(t, minlength=len(self.counts))
        rank = torch.arange(len(t), device=t.device) - (size.cumsum(0) - size)[t]  # among those of the same step
        kept = rank >= size[t] - self.config.history
        slot = (self.counts[t] + rank) % self.config.history
        self.terms[t[kept], slot[kept]] = terms[kept]
        self.counts += size


def gathered(x: Tensor) -> Tensor:
    """Those of all processes, in order."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return x
    parts = [torch.empty_like(x) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, x)
    return torch.cat(parts)


PRESETS = {
    "improved-ddpm": Config(),  # CIFAR-10 of the paper
    "improved-ddpm-mnist": Config(
        shape=(1, 28, 28), channels=32, multipliers=(1, 2, 2), blocks=2, attention=(7,), dropout=0.1, timesteps=1000
    ),
    "improved-ddpm-small": Config(
        shape=(1, 8, 8), levels=17, channels=32, multipliers=(1, 2), blocks=2, attention=(4,), dropout=0.0,
        timesteps=200,
    ),
    "improved-ddpm-small-vlb": Config(
        shape=(1, 8, 8), levels=17, channels=32, multipliers=(1, 2), blocks=2, attention=(4,), dropout=0.0,
        timesteps=200, objective="vlb",
    ),
}  # fmt: skip
