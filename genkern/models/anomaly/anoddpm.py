"""AnoDDPM: Anomaly Detection with Denoising Diffusion Probabilistic Models. Wyatt et al. 2022 (CVPR Workshops).

A diffusion model of healthy pictures alone. A picture is taken part of the way into noise, far enough that what is
wrong in it is lost, and back: what comes back is the healthy picture nearest to it, and where the two differ is the
anomaly. Gaussian noise hides small structures only, since it has the same power at all frequencies; simplex noise, like
the pictures, has more at low ones, and hides large anomalies long before the picture itself is gone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ... import ops, random
from ..energy._base import NOISE, STEPS, TIME
from ..energy.ddpm import DDPM
from ..energy.ddpm import Config as DDPMConfig

NOISES = ("simplex", "gaussian")
PERIOD = 256  # of simplex noise, in units of the first octave
SHOWN = 27  # pictures, with their reconstructions and maps


@dataclass(frozen=True)
class Config(DDPMConfig):
    shape: tuple[int, ...] = (1, 256, 256)
    multipliers: tuple[int, ...] = (1, 1, 2, 3, 4)
    attention: tuple[int, ...] = (32, 16)
    heads: int = 2
    dropout: float = 0.0
    trained: int = 800  # steps that are learned, the first of T: a walk begins far below the last
    start: int = 250  # lambda: how many steps a picture is taken into noise, and back
    noise: str = "simplex"  # or "gaussian"
    octaves: int = 6  # N, of the simplex noise
    persistence: float = 0.8  # gamma: the amplitude of an octave over that of the one before
    frequency: float = 64.0  # 1 / nu: pixels to a unit of the first octave
    slices: bool = True  # of noise in three dimensions, at depth t; else noise in two
    scatter: bool = False  # slices at a depth drawn for each field: all fields hang together at their first corner
    amplitude: float = 1.0  # what fields are multiplied by: 1 / their standard deviation suits the schedule best
    normalize: bool = False  # every field to mean 0 and variance 1, which spares a picture's mean


class AnoDDPM(DDPM):
    config_class = Config

    # Both are those of a chain with Gaussian noise that is learned up to its last step.
    elbo = None  # type: ignore[assignment]
    ode_log_prob = None  # type: ignore[assignment]

    def __init__(self, config: Config):
        if config.noise not in NOISES:
            raise ValueError(f"AnoDDPM: noise must be one of {NOISES}; got {config.noise!r}.")
        if config.noise == "simplex" and len(config.shape) != 3:
            raise ValueError(f"AnoDDPM: shape must be (C, H, W) for simplex noise; got {tuple(config.shape)}.")
        if not 1 <= config.trained <= config.timesteps:
            raise ValueError(f"AnoDDPM: trained must be in [1, {config.timesteps}]; got {config.trained}.")
        if config.variance == "learned_range":
            raise ValueError("AnoDDPM: variance must be fixed, as the loss does not train it; got 'learned_range'.")
        super().__init__(config)
        self._steps("start", config.start)

    @property
    def trained_steps(self) -> int:
        return self.config.trained

    def noise(self, x: Tensor, t: Tensor, key: Tensor, sample_offset: int = 0) -> Tensor | None:
        """Simplex fields like ``x``, one for each channel of each sample, whose seed is of the key and the sample."""
        config = self.config
        if config.noise == "gaussian":
            return None
        samples, channels, height, width = x.shape
        numbers = sample_offset + torch.arange(samples, device=x.device)
        seeds = random.fold_in(random.fold_in(key, numbers)[:, None], torch.arange(channels, device=x.device))
        depth = t[:, None].expand(samples, channels).flatten() if config.slices else None
        if depth is not None and config.scatter:
            u = random.uniform(random.fold_in(key, TIME), (samples, channels), sample_offset=sample_offset).flatten()
            depth = depth + PERIOD * config.frequency * u.double()
        fields = ops.simplex_noise(
            seeds.flatten(), (height, width), t=depth, octaves=config.octaves, persistence=config.persistence,
            frequency=config.frequency, normalize=config.normalize,
        )  # fmt: skip
        return (config.amplitude * fields).reshape(x.shape).to(x.dtype)

    # -- anomalies ----------------------------------------------------------------------------------------------

    def reconstruct(
        self,
        x: Tensor,
        *,
        y: Tensor | None = None,
        start: int | None = None,
        averages: int = 1,
        key: Tensor | None = None,
        sample_offset: int = 0,
    ) -> Tensor:
        """The healthy pictures nearest to ``x``, like it.

        Args:
            x: as the data set holds them, ``[B, *shape]``.
            y: labels ``[B]`` of a model that has classes; None: unknown.
            start: how many steps into noise, and back; 0 gives ``x``; None: the config's.
            averages: walks there and back, of whose ends the mean is taken.
            key: of the noise; None: drawn.
            sample_offset: the number of the first sample, whose noise depends on the key and this number alone.
        """
        return self.unscale(self.restored(self.scale(x), y, start, averages, key, sample_offset))

    def anomaly_map(
        self,
        x: Tensor,
        *,
        y: Tensor | None = None,
        start: int | None = None,
        averages: int = 1,
        key: Tensor | None = None,
        sample_offset: int = 0,
    ) -> Tensor:
        """How far each pixel is from a healthy one: the squared error of the reconstruction, ``[B, *shape]``.

        In the range that `scale` brings data to, so that for pixels it is within [0, 4] (the paper calls anomalous what
        is above 0.5). The arguments are those of `reconstruct`.
        """
        x0 = self.scale(x)
        return (self.restored(x0, y, start, averages, key, sample_offset) - x0).square()

    def anomaly_score(
        self,
        x: Tensor,
        *,
        y: Tensor | None = None,
        start: int | None = None,
        averages: int = 1,
        key: Tensor | None = None,
        sample_offset: int = 0,
    ) -> Tensor:
        """The mean of each picture's `anomaly_map`, ``[B]``."""
        found = self.anomaly_map(x, y=y, start=start, averages=averages, key=key, sample_offset=sample_offset)
        return found.flatten(1).mean(1)

    @torch.no_grad()
    def restored(
        self,
        x0: Tensor,
        y: Tensor | None = None,
        start: int | None = None,
        averages: int = 1,
        key: Tensor | None = None,
        sample_offset: int = 0,
    ) -> Tensor:
        """Algorithm 2 on data in the range of `scale`: into the noise of a step at once, and back step by step."""
        start = self._steps("start", self.config.start if start is None else start)
        if averages < 1:
            raise ValueError(f"AnoDDPM: averages must be at least 1; got {averages}.")
        if start == 0:
            return x0
        key = random.key_from(device=x0.device) if key is None else key
        y = None if y is None else self.labels(len(x0), y, x0.device)
        t, total = torch.full((len(x0),), start - 1, device=x0.device), torch.zeros_like(x0)
        for i in range(averages):
            walk = random.fold_in(key, i)
            x_t = self.noisy(x0, t, random.fold_in(walk, NOISE), sample_offset)
            total += self.denoise(x_t, y, key=random.fold_in(walk, STEPS), start=start - 1, sample_offset=sample_offset)
        return total / averages

    def pictures(self, x: Tensor, *, key: Tensor) -> dict[str, Tensor]:
        """``anomalies``: triples of held-out data, its reconstruction, and their squared error."""
        levels = self.config.levels
        if levels is None or len(self.config.shape) != 3:
            return {}
        x0 = self.scale(x[:SHOWN])
        restored = self.restored(x0, key=key)
        error = (restored - x0).square().clamp(max=1) * 2 - 1  # white is an error of half the range, or more
        return {"anomalies": self.unscale(torch.stack([x0, restored, error], dim=1).flatten(0, 1))}

    def _steps(self, name: str, steps: int) -> int:
        if not 0 <= steps <= self.trained_steps:
            raise ValueError(f"AnoDDPM: {name} must be in [0, {self.trained_steps}]; got {steps}.")
        return steps


PRESETS = {
    "anoddpm": Config(),  # slices of brain scans of the paper
    "anoddpm-mnist": Config(
        shape=(1, 28, 28), channels=32, multipliers=(1, 2, 2), attention=(7,), heads=1, timesteps=250,
        beta_start=4e-4, beta_end=0.08, trained=200, start=60, octaves=5, frequency=16.0, scatter=True, amplitude=2.1,
    ),
    "anoddpm-small": Config(
        shape=(1, 8, 8), levels=17, network="mlp", hidden=256, layers=3, timesteps=200, beta_start=5e-4, beta_end=0.1,
        trained=160, start=40, octaves=4, frequency=8.0, scatter=True, amplitude=2.1,
    ),
}  # fmt: skip

RECIPES = {"anoddpm-small": {"steps": 3000, "batch_size": 128, "lr": 2e-3}}
