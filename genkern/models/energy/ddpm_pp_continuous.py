"""Score-Based Generative Modeling through Stochastic Differential Equations. Song et al. 2021 (arXiv:2011.13456).

Data become noise along a stochastic differential equation (variance preserving, sub-variance preserving or variance
exploding); the network learns the score at every time of it. Run backwards, the equation samples, with Langevin steps
that correct (section 4.2); the ordinary equation with the same marginals samples too, and gives likelihoods (4.3).
The network is DDPM++: the U-Net of DDPM, with resampling in residual blocks and rescaled sums (appendix H).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ... import ops, random
from ...diffusion import SDE, VESDE, VPSDE, SubVPSDE, predictor_corrector
from ...nn.flows.continuous import positions_only
from .._base import Batch, Loss, as_batch
from ._base import NOISE, START, STEPS, TIME, DenoiserConfig, DiffusionModel, column, denoiser

EQUATIONS, METHODS, WEIGHTINGS = ("vp", "subvp", "ve"), ("pc", "ode"), ("simple", "likelihood")


@dataclass(frozen=True)
class Config(DenoiserConfig):
    sde: str = "vp"  # or "subvp", "ve"
    beta_min: float = 0.1  # of the first two
    beta_max: float = 20.0
    ve_sigma_min: float = 0.01  # of "ve"
    ve_sigma_max: float = 50.0
    smallest_time: float = 1e-3  # eps, where training and sampling stop (the paper has 1e-5 for "ve" and training)
    weighting: str = "simple"  # lambda(t) = sigma(t)^2; or "likelihood": g(t)^2
    sample_steps: int = 1000  # N
    corrections: int = 1  # M; in few dimensions 0, as one score may be near 0, by whose norm a correction is divided
    blocks: int = 4
    resample: str = "block"
    skip_rescale: bool = True
    likelihood_steps: int = 16  # of the Runge-Kutta solver of `log_prob`


def equation(config: Config) -> SDE:
    """The stochastic differential equation of a config."""
    if config.sde == "ve":
        sde: SDE = VESDE(config.ve_sigma_min, config.ve_sigma_max)
    else:
        sde = {"vp": VPSDE, "subvp": SubVPSDE}[config.sde](config.beta_min, config.beta_max)
    sde.smallest_time = config.smallest_time
    return sde


class DDPMPPContinuous(DiffusionModel):
    config_class = Config

    def __init__(self, config: Config):
        super().__init__(config)
        for field, value, known in (
            ("sde", config.sde, EQUATIONS), ("weighting", config.weighting, WEIGHTINGS)
        ):  # fmt: skip
            if value not in known:
                raise ValueError(f"DDPMPPContinuous: {field} must be one of {known}; got {value!r}.")
        self.sde, self.network = equation(config), denoiser(config)

    def loss(self, batch: Batch | Tensor, *, key: Tensor | None = None, sample_offset: int = 0) -> Loss:
        r"""Denoising score matching at a random time, :math:`\lambda(t) \| s + z / \sigma(t) \|^2` (equation 7)."""
        x, y = as_batch(batch)
        key = random.key_from(device=x.device) if key is None else key
        x0, y = self.scale(x), self.training_labels(y, len(x), key, sample_offset)
        smallest = self.sde.smallest_time
        draws = random.uniform(random.fold_in(key, TIME), (len(x), 1), dtype=x0.dtype, sample_offset=sample_offset)
        t = smallest + (1 - smallest) * draws[:, 0]
        mean, std = self.sde.marginal(t)
        noise = random.fold_in(key, NOISE)
        x_t = ops.q_sample(x0, mean, std, key=noise, sample_offset=sample_offset)
        weight = None if self.config.weighting == "simple" else self.sde.diffusion(t) / std.square()
        error = ops.diffusion_loss(
            self.predicted_noise(x_t, t, y), x0, weight=weight, key=noise, sample_offset=sample_offset
        )
        total = error.mean()
        return Loss(total, {"score_matching": total.detach()})

    # -- the score ----------------------------------------------------------------------------------------------

    def predicted_noise(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """The network: the noise in states of times ``[B]``, which sees states of unit size."""
        if self.config.sde == "ve":  # whose states grow with their noise
            _, std = self.sde.marginal(t)
            return self.network(x / column(std.square() + 1, x).sqrt(), self.network_time(t), y)
        return self.network(x, self.network_time(t), y)

    def network_time(self, t: Tensor) -> Tensor:
        return 999 * t if self.config.embedding == "positional" else t

    def score(self, x: Tensor, t: Tensor, y: Tensor | None = None, *, guidance: float = 1.0) -> Tensor:
        r""":math:`\nabla_x \log p_t(x)` of scaled data with noise, like ``x``.

        Args:
            x: states, ``[B, *shape]``.
            t: times, ``[B]``.
            y: labels ``[B]``; None: unknown.
            guidance: 1 is the score of p(x | y).
        """
        noise = self.predicted_noise(x, t, y)
        if y is not None and guidance != 1:
            unknown = self.predicted_noise(x, t)
            noise = unknown + guidance * (noise - unknown)
        return -noise / column(self.sde.marginal(t)[1], x)

    def noise_at(self, x: Tensor, sigma: Tensor, y: Tensor | None = None) -> Tensor:
        """See `DiffusionModel`."""
        t = self.time_of(sigma)
        mean, _ = self.sde.marginal(t)
        return self.predicted_noise(column(mean, x) * x, t, y)

    def time_of(self, sigma: Tensor) -> Tensor:
        """The time at which noise over signal is ``sigma``."""
        config = self.config
        if config.sde == "ve":
            return (sigma / config.ve_sigma_min).log() / math.log(config.ve_sigma_max / config.ve_sigma_min)
        if config.sde == "vp":  # mean^2 = 1 / (1 + sigma^2)
            log_mean = -0.5 * sigma.square().log1p()
        else:  # 1 - mean^2 = sigma mean
            log_mean = (2 / (sigma + (sigma.square() + 4).sqrt())).log()
        slope = config.beta_max - config.beta_min  # log mean = -slope t^2 / 4 - beta_min t / 2
        return -4 * log_mean / (config.beta_min + (config.beta_min**2 - 4 * slope * log_mean).sqrt())

    def sigma_range(self) -> tuple[float, float]:
        mean, std = self.sde.marginal(torch.tensor([self.sde.smallest_time, 1.0], dtype=torch.float64))
        low, high = (std / mean).tolist()
        return low, high

    # -- likelihood and samples ---------------------------------------------------------------------------------

    def log_prob(
        self, x: Tensor, *, y: Tensor | None = None, key: Tensor | None = None, sample_offset: int = 0
    ) -> Tensor:
        """Log-likelihood in nats, ``[B]``, with one draw of its noise: `ode_log_prob`."""
        return self.ode_log_prob(x, y, key=key, sample_offset=sample_offset, steps=self.config.likelihood_steps)

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
        method: str = "pc",
        predictor: str = "reverse-diffusion",
        corrections: int | None = None,
        snr: float = 0.16,
        solver: str = "rk4",
        sample_offset: int = 0,
    ) -> Tensor:
        """``n`` samples, ``[n, *shape]``.

        Args:
            key: from `genkern.random.key`; the noise of sample ``i`` is that of number ``sample_offset + i``.
            temperature: what the noise to start from is multiplied by.
            y: labels, ``[n]`` or one for all; without them a conditional model takes its classes in turn.
            guidance: 1 samples from p(x | y); more, further away from what is likely without the label.
            steps: of either method; None: ``sample_steps`` of the config, or 32.
            method: ``"pc"``, predictor and corrector, or ``"ode"``, the flow of probability.
            predictor, corrections, snr: see `predictor_corrector`; each sample has its own length of a correction, and
                None is as many as the config has.
            solver: of the flow; see `CNF`.
            sample_offset: the number of the first sample.
        """
        if method not in METHODS:
            raise ValueError(f"DDPMPPContinuous.sample: method must be one of {METHODS}; got {method!r}.")
        shape = (n, *self.config.shape)
        x = random.normal(random.fold_in(key, START), shape, dtype=self.dtype, sample_offset=sample_offset)
        x = x * (temperature * self.sde.prior_std)
        y = self.labels(n, y, key.device, sample_offset)
        training = self.training
        self.eval()

        def score(x: Tensor, t: Tensor) -> Tensor:
            return self.score(x, t, y, guidance=guidance)

        if method == "ode":
            flow = self.sde.flow(score, solver=solver, steps=steps or 32)
            with positions_only(flow):
                x, _ = flow.inverse(x)
            # what is left of the noise (appendix C): one step of the denoiser
            t = torch.full((n,), self.sde.smallest_time, dtype=x.dtype, device=x.device)
            mean, std = self.sde.marginal(t)
            x = (x + column(std.square(), x) * score(x, t)) / column(mean, x)
        else:
            x = predictor_corrector(
                self.sde, score, x, steps=steps or self.config.sample_steps, key=random.fold_in(key, STEPS),
                predictor=predictor, corrections=self.config.corrections if corrections is None else corrections,
                snr=snr, per_sample=True, sample_offset=sample_offset,
            )  # fmt: skip
        self.train(training)
        return self.unscale(x)


SMALL = Config(
    shape=(1, 8, 8), levels=17, channels=32, multipliers=(1, 2), attention=(4,), blocks=2, dropout=0.0,
    sample_steps=200,
)  # fmt: skip

PRESETS = {
    "ddpm-pp-continuous": Config(),  # CIFAR-10 of table 2
    "ddpm-pp-continuous-mnist": Config(
        shape=(1, 28, 28), channels=32, multipliers=(1, 2, 2), attention=(7,), blocks=2, sample_steps=300
    ),
    "ddpm-pp-continuous-small": SMALL,
    "ddpm-pp-continuous-small-subvp": replace(SMALL, sde="subvp"),
    "ddpm-pp-continuous-small-ve": replace(SMALL, sde="ve", ve_sigma_max=10.0),
    "ddpm-pp-continuous-2d": Config(
        shape=(2,), levels=None, data_scale=2.0, network="mlp", hidden=128, dropout=0.0, sample_steps=200,
        corrections=0, embedding="fourier",
    ),
}  # fmt: skip
RECIPES = {"ddpm-pp-continuous-2d": {"steps": 4000}}
