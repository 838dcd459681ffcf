"""Denoising Diffusion Probabilistic Models. Ho, Jain & Abbeel 2020 (arXiv:2006.11239).

A fixed Markov chain turns data into noise in T steps; a network learns the noise in a sample of any step, by which the
chain is walked back (algorithms 1 and 2). The variational bound of the likelihood is a sum over the steps, of which
the training loss is a reweighting.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ... import ops, random
from ...diffusion import coefficients, schedules
from ...ops.diffusion_step import COLUMNS
from .._base import Batch, Loss, as_batch
from ._base import NOISE, START, STEPS, TIME, DenoiserConfig, DiffusionModel, column, denoiser

METHODS = ("ddpm", "ddim", "dpm++")
VARIANCES = ("fixed_small", "fixed_large", "learned_range")
PREDICTIONS = ("epsilon", "v_prediction", "sample")


@dataclass(frozen=True)
class Config(DenoiserConfig):
    timesteps: int = 1000  # T
    schedule: str = "linear"  # of beta_t; or "cosine", "scaled_linear", "sigmoid"
    beta_start: float = 1e-4  # beta_1 and beta_T, of schedules that have them
    beta_end: float = 0.02
    prediction: str = "epsilon"  # what the network gives; or "v_prediction", "sample"
    variance: str = "fixed_large"  # sigma_t^2 = beta_t, or "fixed_small": the posterior's


class DDPM(DiffusionModel):
    config_class: ClassVar[type] = Config
    alpha: Tensor  # sqrt(alphas_cumprod), [T]
    sigma: Tensor  # sqrt(1 - alphas_cumprod), [T]
    log_level: Tensor  # ln(sigma / alpha), [T]
    bounds: Tensor  # coefficients of the terms of the variational bound, [T, 8]

    def __init__(self, config: Config):
        super().__init__(config)
        name = type(self).__name__
        for field, value, known in (
            ("prediction", config.prediction, PREDICTIONS), ("variance", config.variance, VARIANCES)
        ):  # fmt: skip
            if value not in known:
                raise ValueError(f"{name}: {field} must be one of {known}; got {value!r}.")
        self.learned = config.variance == "learned_range"
        self.network = denoiser(config, out_channels=2 * config.shape[0] if self.learned else None)
        self.alphas_cumprod = schedules.alphas_cumprod(  # float64, on the CPU
            config.schedule, config.timesteps, config.beta_start, config.beta_end
        )
        tables = {"alpha": self.alphas_cumprod.sqrt(), "sigma": (1 - self.alphas_cumprod).sqrt()}
        tables["log_level"] = (tables["sigma"] / tables["alpha"]).log()
        tables["bounds"] = ops.vlb_coefficients(
            self.alphas_cumprod, prediction_type=config.prediction, variance_type=config.variance
        )
        for buffer, table in tables.items():
            self.register_buffer(buffer, table.float(), persistent=False)

    # -- training -----------------------------------------------------------------------------------------------

    def loss(self, batch: Batch | Tensor, *, key: Tensor | None = None, sample_offset: int = 0) -> Loss:
        """The squared error of the network's prediction at a random step (equation 14)."""
        x, y = as_batch(batch)
        key = random.key_from(device=x.device) if key is None else key
        x0, y = self.scale(x), self.training_labels(y, len(x), key, sample_offset)
        t, _ = self.draw_times(len(x), key, sample_offset)
        noise = random.fold_in(key, NOISE)
        x_t = self.noisy(x0, t, noise, sample_offset)
        output, _ = self.split(self.network(x_t, self.time(t), y))
        simple = self.simple_loss(output, x0, t, noise, sample_offset).mean()
        return Loss(simple, {"mse": simple.detach()})

    def simple_loss(self, output: Tensor, x0: Tensor, t: Tensor, key: Tensor, sample_offset: int = 0) -> Tensor:
        """L_simple of each sample: the mean square of the prediction less its target, ``[B]``."""
        return ops.diffusion_loss(
            output, x0, self.alpha, self.sigma, prediction_type=self.config.prediction, timesteps=t,
            sample_offset=sample_offset, **self.source(x0, t, key, sample_offset),
        )  # fmt: skip

    def noisy(self, x0: Tensor, t: Tensor, key: Tensor, sample_offset: int = 0) -> Tensor:
        """A draw of q(x_t | x_0) at steps ``t``, ``[B]``."""
        return ops.q_sample(
            x0, self.alpha, self.sigma, timesteps=t, sample_offset=sample_offset,
            **self.source(x0, t, key, sample_offset),
        )  # fmt: skip

    def source(self, x: Tensor, t: Tensor, key: Tensor, sample_offset: int = 0) -> dict[str, Any]:
        """What the operations take their noise from: the key of Gaussian noise, or the ``noise`` of another kind."""
        noise = self.noise(x, t, key, sample_offset)
        return {"key": key} if noise is None else {"noise": noise}

    def noise(self, x: Tensor, t: Tensor, key: Tensor, sample_offset: int = 0) -> Tensor | None:
        """Noise like ``x`` for steps ``t``, ``[B]``, from a key; None: Gaussian, drawn by the kernels."""
        return None

    @property
    def trained_steps(self) -> int:
        """Steps that the network learns, the first of T."""
        return self.config.timesteps

    def draw_times(self, n: int, key: Tensor, sample_offset: int = 0) -> tuple[Tensor, Tensor | None]:
        """Steps ``[n]`` in [0, `trained_steps`), and the weight of each sample's loss (None: all alike)."""
        draws = random.uniform(random.fold_in(key, TIME), (n, 1), sample_offset=sample_offset)[:, 0]
        return (draws * self.trained_steps).long().clamp(max=self.trained_steps - 1), None

    def split(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        """The prediction, and the interpolation of the log-variance where it is learned."""
        return tuple(output.chunk(2, dim=1)) if self.learned else (output, None)  # type: ignore[return-value]

    def time(self, t: Tensor) -> Tensor:
        """What the network is told of step ``t``: numbers up to 1000, or to 1 for random frequencies, whatever T."""
        return t.to(self.dtype) * ((1000 if self.config.embedding == "positional" else 1) / self.config.timesteps)

    # -- likelihood ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def elbo(
        self,
        x: Tensor,
        *,
        y: Tensor | None = None,
        key: Tensor | None = None,
        sample_offset: int = 0,
        terms: int | None = 16,
    ) -> Tensor:
        r"""The variational lower bound of the log-likelihood in nats, ``[B]`` (equation 5).

        .. math:: \log p(x_0) \ge -\sum_{t \ge 0} L_t - D_\text{KL}(q(x_T | x_0) \,\|\, p(x_T))

        with one draw of the noise for each term. ``terms=None`` sums all T; else an unbiased estimate, from the first
        term and from one random step out of each of ``terms`` ranges of steps, which grow geometrically.

        Args:
            x: as the data set holds them, ``[B, *shape]``.
            y: labels ``[B]``; None: unknown.
            key: of the noise and the steps.
        """
        key = random.key_from(device=x.device) if key is None else key
        x0 = self.scale(x)
        total = self.step_nats(x0, torch.zeros(len(x), dtype=torch.int64, device=x.device), y, key, sample_offset)
        for i, (first, end) in enumerate(ranges(1, self.config.timesteps, terms)):
            here = random.fold_in(key, i + 1)
            draws = random.uniform(random.fold_in(here, TIME), (len(x), 1), sample_offset=sample_offset)[:, 0]
            t = (first + (draws * (end - first)).long()).clamp(max=end - 1)
            total = total + (end - first) * self.step_nats(x0, t, y, here, sample_offset)
        total = total + self.prior_nats(x0)
        return -total - (math.log(self.config.data_scale) * x0[0].numel() if self.config.levels is None else 0)

    def step_nats(self, x0: Tensor, t: Tensor, y: Tensor | None, key: Tensor, sample_offset: int = 0) -> Tensor:
        """L_t of each sample in nats, ``[B]``, at a step of its own: the decoder's at 0, else a divergence."""
        noise = random.fold_in(key, NOISE)
        x_t = self.noisy(x0, t, noise, sample_offset)
        return self.bound(self.network(x_t, self.time(t), y), x0, x_t, t)

    def bound(self, output: Tensor, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """L_t in nats, ``[B]``, of what the network gives at ``x_t``; predictions are clipped in evaluation."""
        levels, (prediction, variance) = self.config.levels, self.split(output)
        nats = ops.vlb_term(
            x0, x_t, prediction, self.bounds, timesteps=t, variance=variance, levels=levels or 2,
            clip_denoised=levels is not None and not self.training,
        )  # fmt: skip
        if levels is not None:
            return nats
        # of vectors the decoder is a density
        of_x, of_output, *_, low, high, _ = (column(value, x0) for value in self.bounds[t].unbind(1))
        log_variance = low if variance is None else low + (high - low) * (variance + 1) / 2
        decoder = -self.decoder_log_prob(x0, of_x * x_t + of_output * prediction, log_variance / 2)
        return torch.where(t == 0, decoder, nats)

    def prior_nats(self, x0: Tensor) -> Tensor:
        """What the last step still knows of each sample: KL(q(x_T | x_0) || N(0, 1)) in nats, ``[B]``."""
        signal = float(self.alphas_cumprod[-1])
        constant = x0[0].numel() * 0.5 * (-signal - math.log1p(-signal))
        return 0.5 * signal * x0.flatten(1).square().sum(1) + constant

    # -- sampling -----------------------------------------------------------------------------------------------

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
        method: str = "ddpm",
        eta: float = 0.0,
        sample_offset: int = 0,
    ) -> Tensor:
        """``n`` samples, ``[n, *shape]``.

        Args:
            key: from `genkern.random.key`; the noise of sample ``i`` is that of number ``sample_offset + i``.
            temperature: what the noise is multiplied by.
            y: labels, ``[n]`` or one for all; without them a conditional model takes its classes in turn.
            guidance: 1 samples from p(x | y); more, further away from what is likely without the label.
            steps: how many; None: T for ``"ddpm"``, and at most 50 for the others.
            method: ``"ddpm"``, the chain of the paper; ``"ddim"``, without noise unless ``eta`` (Song et al. 2021,
                arXiv:2010.02502); ``"dpm++"``, a second-order solver (Lu et al. 2022, arXiv:2211.01095).
            eta: of ``"ddim"``.
            sample_offset: the number of the first sample.
        """
        shape = (n, *self.config.shape)
        x, start = torch.empty(shape, dtype=self.dtype, device=key.device), random.fold_in(key, START)
        last = torch.full((n,), self.trained_steps - 1, device=key.device)
        noise = self.noise(x, last, start, sample_offset)
        x = random.normal(start, shape, dtype=self.dtype, sample_offset=sample_offset) if noise is None else noise
        y = self.labels(n, y, key.device, sample_offset)
        return self.unscale(
            self.denoise(
                x * temperature, y, key=random.fold_in(key, STEPS), temperature=temperature, guidance=guidance,
                steps=steps, method=method, eta=eta, sample_offset=sample_offset,
            )
        )  # fmt: skip

    @torch.no_grad()
    def denoise(
        self,
        x: Tensor,
        y: Tensor | None = None,
        *,
        key: Tensor,
        start: int | None = None,
        steps: int | None = None,
        method: str = "ddpm",
        eta: float = 0.0,
        guidance: float = 1.0,
        temperature: float = 1.0,
        sample_offset: int = 0,
    ) -> Tensor:
        """Walks samples of step ``start`` (None: the last) back to data, in the range that `scale` brings data to.

        The other arguments are those of `sample`. The noise of the walk's step ``i`` is ``fold_in(key, i)``'s.
        """
        times, rows = self.walk(start, steps, method, eta)
        rows[:, COLUMNS.index("noise")] *= temperature
        noisy = (rows[:, COLUMNS.index("noise")] != 0).tolist()
        rows, clip = rows.to(x.device), None if self.config.levels is None else 1.0
        training = self.training
        previous: Tensor | None = x
        self.eval()
        for i, t in enumerate(times):
            now = torch.full((len(x),), t, device=x.device)
            noise = self.noise(x, now, random.fold_in(key, i), sample_offset) if noisy[i] else None
            output, unconditional = self.guided(x, self.time(now), y, guidance)
            output, log_variance = self.split(output)
            if unconditional is not None:
                unconditional, _ = self.split(unconditional)
            x, previous = ops.diffusion_step(
                x, output, rows, unconditional=unconditional, guidance=guidance, previous=previous,
                log_variance=log_variance, clip=clip, key=key if noise is None else None, noise=noise,
                step=torch.tensor(i, device=x.device), sample_offset=sample_offset,
            )  # fmt: skip
        self.train(training)
        return x

    def walk(self, start: int | None, steps: int | None, method: str, eta: float) -> tuple[list[int], Tensor]:
        """The steps from which a walk goes on to the next, down to data, and a row of coefficients for each."""
        name, last = type(self).__name__, self.trained_steps - 1
        if method not in METHODS:
            raise ValueError(f"{name}.sample: method must be one of {METHODS}; got {method!r}.")
        start = last if start is None else start
        if not 0 <= start <= last:
            raise ValueError(f"{name}.denoise: start must be in [0, {last}]; got {start}.")
        steps = (start + 1 if method == "ddpm" else min(50, start + 1)) if steps is None else steps
        if not 1 <= steps <= start + 1:
            raise ValueError(f"{name}.sample: steps must be in [1, {start + 1}]; got {steps}.")
        times = [round((i + 1) * (start + 1) / steps) - 1 for i in reversed(range(steps))]
        here = self.alphas_cumprod[times]
        there, prediction = torch.cat([here[1:], here.new_ones(1)]), self.config.prediction
        if method == "ddpm":
            return times, coefficients.ddpm(here, there, prediction, self.config.variance)
        if method == "ddim":
            return times, coefficients.ddim(here, there, prediction, eta)
        (alpha, sigma), (alpha_there, sigma_there) = map(coefficients.of_alpha_bar, (here, there))
        before = alpha.roll(1), sigma.roll(1)
        denoised = coefficients.denoised(prediction, alpha, sigma)
        ends = (alpha, alpha_there), (sigma, sigma_there)
        first = coefficients.dpm_solver_pp_2m(*ends, *denoised)
        second = coefficients.dpm_solver_pp_2m(*ends, *denoised, last=before)
        return times, torch.cat([first[:1], second[1:]])

    # -- the flow of probability --------------------------------------------------------------------------------

    def noise_at(self, x: Tensor, sigma: Tensor, y: Tensor | None = None) -> Tensor:
        """See `DiffusionModel`; between the levels of two steps the network is told a fraction."""
        alpha = column(1 / (1 + sigma.square()).sqrt(), x)
        noisy = alpha * x
        output, _ = self.split(self.network(noisy, self.time(self.step_of(sigma)), y))
        if self.config.prediction == "epsilon":
            return output
        if self.config.prediction == "sample":
            return (x - output) / column(sigma, x)
        return alpha * (output + column(sigma, x) * noisy)  # of v: alpha v + sqrt(1 - alpha^2) x_t

    def step_of(self, sigma: Tensor) -> Tensor:
        """The step whose noise level is ``sigma``, and between two of them a fraction, linear in the logarithm."""
        table, level = self.log_level, sigma.log().to(self.log_level.dtype)
        low = (torch.searchsorted(table, level.contiguous(), right=True) - 1).clamp(0, len(table) - 2)
        return low + ((level - table[low]) / (table[low + 1] - table[low])).clamp(0, 1)

    def sigma_range(self) -> tuple[float, float]:
        return float(self.log_level[0].exp()), float(self.log_level[self.trained_steps - 1].exp())


def ranges(first: int, end: int, count: int | None) -> list[tuple[int, int]]:
    """[first, end) in at most ``count`` ranges that grow geometrically; None: one for each number."""
    if count is None:
        return [(i, i + 1) for i in range(first, end)]
    edges = torch.logspace(math.log10(first), math.log10(end), count + 1, dtype=torch.float64).round().long().tolist()
    edges = sorted({first, *edges, end})
    return list(zip(edges, edges[1:], strict=False))


PRESETS = {
    "ddpm": Config(),  # CIFAR-10 of the paper
    "ddpm-mnist": Config(
        shape=(1, 28, 28), channels=16, multipliers=(1, 2, 4), blocks=1, attention=(7,), dropout=0.0,
        timesteps=200, schedule="cosine",
    ),
    "ddpm-small": Config(
        shape=(1, 8, 8), levels=17, channels=32, multipliers=(1, 2), attention=(4,), dropout=0.0,
        timesteps=200, schedule="cosine",
    ),
    "ddpm-2d": Config(
        shape=(2,), levels=None, data_scale=2.0, network="mlp", hidden=128, dropout=0.0,
        timesteps=100, beta_start=1e-3, beta_end=0.2, embedding="fourier",
    ),
}  # fmt: skip
RECIPES = {
    "ddpm-mnist": {"steps": 1600, "lr": 2e-3, "ema": 0.995, "evaluate_every": 400},
    "ddpm-small": {"steps": 2000, "lr": 2e-3},
    "ddpm-2d": {"steps": 4000},
}
