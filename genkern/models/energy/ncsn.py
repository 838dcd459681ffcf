r"""Improved Techniques for Training Score-Based Generative Models. Song & Ermon 2020 (arXiv:2006.09011): NCSNv2.

A network learns the score of data under each of many noise levels, by denoising score matching; samples come from
annealed Langevin dynamics along the levels and a last step that removes what noise is left. With it the first paper,
Generative Modeling by Estimating Gradients of the Data Distribution (Song & Ermon 2019, arXiv:1907.05600).

The network's output is the noise, so the score is :math:`-\hat\epsilon / \sigma`: the scaling of technique 3. Largest
level, ratio of levels and step follow techniques 1, 2 and 4; the average of the weights is ``--ema``. Pixels lie in
[-1, 1], so that levels are twice those of the paper; the network is a U-Net that sees the level.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ... import ops, random
from ...nn import annealed_langevin, noise_levels, tuned_step
from .._base import Batch, Loss, as_batch
from ._base import NOISE, START, STEPS, TIME, DenoiserConfig, DiffusionModel, column, denoiser


@dataclass(frozen=True)
class Config(DenoiserConfig):
    embedding: str = "fourier"
    sigma_max: float = 100.0  # sigma_1: about the largest distance between two pictures
    sigma_min: float = 0.02  # sigma_L
    noise_levels: int = 232  # L, in a geometric sequence
    steps: int = 5  # T, at each level
    step: float | None = None  # epsilon; None: by technique 4


class NCSN(DiffusionModel):
    config_class = Config
    sigmas: Tensor  # [L], from the largest down

    def __init__(self, config: Config):
        super().__init__(config)
        self.network = denoiser(config)
        levels = noise_levels(config.sigma_max, config.sigma_min, config.noise_levels)
        self.register_buffer("sigmas", torch.tensor(levels), persistent=False)
        self.step = tuned_step(levels, config.steps) if config.step is None else config.step

    def noise_at(self, x: Tensor, sigma: Tensor, y: Tensor | None = None) -> Tensor:
        return self.network(*self.inputs(x, sigma), y)

    def inputs(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """What the network sees: states of about unit variance, and the logarithm of their level."""
        return x * column((1 + sigma.square()).rsqrt(), x), sigma.log() / 4

    def score(self, x: Tensor, sigma: Tensor, y: Tensor | None = None) -> Tensor:
        """The score of scaled data under noise of levels ``[B]``, like ``x``."""
        return -self.noise_at(x, sigma, y) / column(sigma, x)

    def sigma_range(self) -> tuple[float, float]:
        return self.config.sigma_min, self.config.sigma_max

    def loss(self, batch: Batch | Tensor, *, key: Tensor | None = None, sample_offset: int = 0) -> Loss:
        r""":math:`\tfrac12 \sigma^2 \lVert s(x + \sigma z, \sigma) + z / \sigma \rVert^2`, a mean over dimensions."""
        x, y = as_batch(batch)
        key = random.key_from(device=x.device) if key is None else key
        x0, y = self.scale(x), self.training_labels(y, len(x), key, sample_offset)
        draws = random.uniform(random.fold_in(key, TIME), (len(x), 1), sample_offset=sample_offset)[:, 0]
        sigma = self.sigmas[(draws * len(self.sigmas)).long().clamp(max=len(self.sigmas) - 1)].to(x0.dtype)
        noise = random.fold_in(key, NOISE)
        noisy = ops.q_sample(x0, 1.0, sigma, key=noise, sample_offset=sample_offset)
        error = ops.diffusion_loss(self.noise_at(noisy, sigma, y), x0, key=noise, sample_offset=sample_offset)
        total = 0.5 * error.mean()
        return Loss(total, {"score_matching": total.detach()})

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        key: Tensor,
        temperature: float = 1.0,
        y: Tensor | int | None = None,
        guidance: float = 1.0,
        steps: int | None = None,
        denoise: bool = True,
        sample_offset: int = 0,
    ) -> Tensor:
        """``n`` samples, ``[n, *shape]``, by annealed Langevin dynamics (algorithm 1).

        Args:
            key: from `genkern.random.key`; the noise of sample ``i`` is that of number ``sample_offset + i``.
            temperature: scales the variance of the noise.
            y: labels, ``[n]`` or one for all; without them a conditional model takes its classes in turn.
            guidance: 1 samples from p(x | y); more, further away from what is likely without the label.
            steps: T, at each level; None: those of the config. The step is that of the config's.
            denoise: end with the expected data given the last state.
            sample_offset: the number of the first sample.
        """
        config, shape = self.config, (n, *self.config.shape)
        labels = self.labels(n, y, key.device, sample_offset)

        def score(x: Tensor, sigma: Tensor) -> Tensor:
            noise, unconditional = self.guided(*self.inputs(x, sigma), labels, guidance)
            if unconditional is not None:
                noise = unconditional + guidance * (noise - unconditional)
            return -noise / column(sigma, x)

        start = random.normal(random.fold_in(key, START), shape, dtype=self.dtype, sample_offset=sample_offset)
        training = self.training
        self.eval()
        v = annealed_langevin(
            score,
            config.sigma_max * start,
            noise_levels(config.sigma_max, config.sigma_min, config.noise_levels),
            steps=config.steps if steps is None else steps,
            step=self.step,
            key=random.fold_in(key, STEPS),
            sample_offset=sample_offset,
            denoise=denoise,
            temperature=temperature,
        )
        self.train(training)
        return self.unscale(v)


PRESETS = {
    "ncsn": Config(multipliers=(1, 2, 2, 2), blocks=2, dropout=0.0),
    "ncsn-mnist": Config(
        shape=(1, 28, 28), channels=16, multipliers=(1, 2, 4), blocks=1, attention=(7,), dropout=0.0, sigma_max=20.0,
        sigma_min=0.04, noise_levels=64,
    ),
    "ncsn-small": Config(
        shape=(1, 8, 8), levels=17, channels=32, multipliers=(1, 2), attention=(4,), dropout=0.0, sigma_max=8.0,
        sigma_min=0.05, noise_levels=28,
    ),
    "ncsn-2d": Config(
        shape=(2,), levels=None, data_scale=4.0, network="mlp", hidden=128, dropout=0.0, sigma_max=4.0,
        sigma_min=0.02, noise_levels=30, steps=10,
    ),
}  # fmt: skip
RECIPES = {"ncsn-mnist": {"steps": 1600, "lr": 2e-3, "ema": 0.995, "evaluate_every": 400}}
