"""Elucidating the Design Space of Diffusion-Based Generative Models. Karras et al. 2022 (arXiv:2206.00364).

A denoiser of data under Gaussian noise of any level, with its input, output and loss scaled to unit variance (section
5), and sampled by a second-order solver of the flow of probability that may add noise on its way (algorithm 2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ... import ops, random
from ...diffusion import coefficients, schedules
from ...nn import EDMPreconditioning
from .._base import Batch, Loss, as_batch
from ._base import NOISE, START, STEPS, TIME, DenoiserConfig, DiffusionModel, column, denoiser

DENOISED = 0.0, 1.0  # what the network gives is the data


@dataclass(frozen=True)
class Config(DenoiserConfig):
    sigma_data: float = 0.5  # standard deviation of the data, pixels in [-1, 1]
    p_mean: float = -1.2  # ln sigma of training: N(P_mean, P_std^2)
    p_std: float = 1.2
    sigma_min: float = 0.002  # noise levels of sampling
    sigma_max: float = 80.0
    rho: float = 7.0  # how much more often small levels are visited


class EDM(DiffusionModel):
    config_class = Config

    def __init__(self, config: Config):
        super().__init__(config)
        self.network = EDMPreconditioning(denoiser(config), sigma_data=config.sigma_data)

    def loss(self, batch: Batch | Tensor, *, key: Tensor | None = None, sample_offset: int = 0) -> Loss:
        """The weighted squared error of the denoiser at a random noise level (equation 8 and table 1)."""
        x, y = as_batch(batch)
        key = random.key_from(device=x.device) if key is None else key
        x0, y = self.scale(x), self.training_labels(y, len(x), key, sample_offset)
        draws = random.normal(random.fold_in(key, TIME), (len(x), 1), dtype=x0.dtype, sample_offset=sample_offset)
        sigma = (self.config.p_mean + self.config.p_std * draws[:, 0]).exp()
        noise = random.fold_in(key, NOISE)
        noisy = ops.q_sample(x0, 1.0, sigma, key=noise, sample_offset=sample_offset)
        error = ops.diffusion_loss(
            self.network(noisy, sigma, y), x0, prediction_type="sample", weight=self.network.weight(sigma), key=noise,
            sample_offset=sample_offset,
        )  # fmt: skip
        total = error.mean()
        return Loss(total, {"weighted_mse": total.detach()})

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        key: Tensor,
        temperature: float = 1.0,
        y: Tensor | int | None = None,
        guidance: float = 1.0,
        steps: int = 18,
        method: str = "heun",
        churn: float = 0.0,
        churn_min: float = 0.05,
        churn_max: float = 50.0,
        churn_noise: float = 1.003,
        sample_offset: int = 0,
    ) -> Tensor:
        """``n`` samples, ``[n, *shape]`` (algorithm 2).

        Args:
            key: from `genkern.random.key`; the noise of sample ``i`` is that of number ``sample_offset + i``.
            temperature: what the noise is multiplied by.
            y: labels, ``[n]`` or one for all; without them a conditional model takes its classes in turn.
            guidance: 1 samples from p(x | y); more, further away from what is likely without the label.
            steps: noise levels; each costs two calls of the network, the last one.
            method: ``"heun"``, or ``"euler"`` of first order, with one call for a level.
            churn: S_churn, how much noise a step adds before it removes more (0: none, a deterministic flow).
            churn_min, churn_max, churn_noise: S_min, S_max and S_noise: where noise is added, and its scale.
            sample_offset: the number of the first sample.
        """
        if method not in ("heun", "euler"):
            raise ValueError(f"EDM.sample: method must be 'heun' or 'euler'; got {method!r}.")
        config, noise = self.config, random.fold_in(key, STEPS)
        levels = [*schedules.karras_sigmas(steps, config.sigma_min, config.sigma_max, config.rho).tolist(), 0.0]
        shape = (n, *config.shape)
        x = random.normal(random.fold_in(key, START), shape, dtype=self.dtype, sample_offset=sample_offset)
        x = x * (temperature * levels[0])
        y = self.labels(n, y, key.device, sample_offset)
        training = self.training
        self.eval()
        for i, (level, target) in enumerate(zip(levels, levels[1:], strict=False)):
            gamma = min(churn / steps, 2**0.5 - 1) if churn_min <= level <= churn_max else 0.0
            if gamma > 0:
                raised = level * (1 + gamma)
                scale = temperature * churn_noise * (raised**2 - level**2) ** 0.5
                x = ops.q_sample(x, 1.0, scale, key=random.fold_in(noise, i), sample_offset=sample_offset)
                level = raised
            start, row = x, coefficients.euler(level, target, *DENOISED)
            x = self._step(x, level, y, guidance, row, start)
            if method == "heun" and target > 0:
                x = self._step(x, target, y, guidance, coefficients.heun(level, target, *DENOISED), start)
        self.train(training)
        return self.unscale(x)

    def _step(self, x: Tensor, level: float, y: Tensor | None, guidance: float, row: Tensor, start: Tensor) -> Tensor:
        """The denoiser at one level, and a step by its row of coefficients from there."""
        output, unconditional = self.guided(x, torch.full_like(x.flatten(1)[:, 0], level), y, guidance)
        return ops.diffusion_step(
            x, output, row.to(x.device), unconditional=unconditional, guidance=guidance, previous=start, return_x0=False
        )[0]

    def noise_at(self, x: Tensor, sigma: Tensor, y: Tensor | None = None) -> Tensor:
        return (x - self.network(x, sigma, y)) / column(sigma, x)

    def sigma_range(self) -> tuple[float, float]:
        return self.config.sigma_min, self.config.sigma_max


PRESETS = {
    # CIFAR-10 of table 2, with the network of score SDEs (DDPM++)
    "edm": Config(multipliers=(2, 2, 2), blocks=4, dropout=0.13, scale_shift=True, resample="block", skip_rescale=True),
    "edm-mnist": Config(
        shape=(1, 28, 28), channels=16, multipliers=(1, 2, 4), blocks=1, attention=(7,), dropout=0.0,
        embedding="fourier",
    ),
    "edm-small": Config(
        shape=(1, 8, 8), levels=17, channels=32, multipliers=(1, 2), attention=(4,), dropout=0.0, embedding="fourier"
    ),
    "edm-2d": Config(
        shape=(2,), levels=None, data_scale=4.0, network="mlp", hidden=128, dropout=0.0, embedding="fourier"
    ),
}  # fmt: skip
RECIPES = {
    "edm-mnist": {"steps": 1600, "lr": 2e-3, "ema": 0.995, "evaluate_every": 400},
    "edm-2d": {"steps": 4000},
}
