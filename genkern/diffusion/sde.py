r"""Diffusion as a stochastic differential equation: what it does to data, and the ways to run it backwards.

.. math:: dx = f(t)\, x\, dt + g(t)\, dw, \qquad 0 \le t \le 1, \qquad x(t) = m(t)\, x(0) + \sigma(t)\, z

Every predictor of the reverse equation is affine in the state, its score and new noise, so a table of coefficients in
float64 holds them all, and a step is one call of `diffusion_step`. Song et al. 2021 (arXiv:2011.13456).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .. import random
from ..nn import CNF
from ..nn.flows.continuous import positions_only
from ..ops import diffusion_step, gaussian_log_prob, langevin_snr_step
from ..ops._checks import check
from ..ops.diffusion_step import COLUMNS

PREDICTORS = ("euler-maruyama", "reverse-diffusion", "ancestral", "none")
PRIOR, PREDICT, CORRECT = range(3)  # folded into a key: what it draws
Score = Callable[[Tensor, Tensor], Tensor]


class SDE:
    r"""What the three equations share. ``smallest_time`` is where sampling ends and a likelihood begins.

    Times are tensors of any shape; functions of them are computed in the dtype of the time, tables in float64.
    """

    smallest_time = 1e-3
    prior_std = 1.0

    def drift(self, t: Tensor) -> Tensor:
        """:math:`f(t)`."""
        raise NotImplementedError(f"{type(self).__name__} does not define drift.")

    def diffusion(self, t: Tensor) -> Tensor:
        """:math:`g(t)^2`."""
        raise NotImplementedError(f"{type(self).__name__} does not define diffusion.")

    def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        r""":math:`m(t)` and :math:`\sigma(t)` of :math:`x(t) = m x(0) + \sigma z`."""
        raise NotImplementedError(f"{type(self).__name__} does not define marginal.")

    def discrete(self, steps: int) -> tuple[Tensor, Tensor, Tensor] | None:
        """Of the chain of which the equation is the limit: coefficients of state, score and noise in a reverse step."""
        return None

    def ancestral(self, steps: int) -> tuple[Tensor, Tensor, Tensor] | None:
        """Those of ancestral sampling from that chain."""
        return None

    def corrector_scale(self, steps: int) -> Tensor:
        r""":math:`\alpha_i` of the corrector's step size, ``[steps]``, in the order of sampling."""
        return torch.ones(steps, dtype=torch.float64)

    def times(self, steps: int) -> Tensor:
        """From 1 down to ``smallest_time``, ``[steps]``, float64."""
        return torch.linspace(1.0, self.smallest_time, steps, dtype=torch.float64)

    def predictor(self, kind: str, steps: int, *, probability_flow: bool = False) -> Tensor:
        r"""The table of a predictor, ``[steps, 9]`` in float64, in the order of sampling; see `diffusion_step`.

        Args:
            kind: ``"euler-maruyama"``, ``"reverse-diffusion"`` (as the discrete chain was made) or ``"ancestral"``.
            steps: from time 1 to ``smallest_time``.
            probability_flow: the ordinary equation with the same marginals: half the score, no noise.

        The network's output is the score. The last row has no noise: it ends at the mean.

        Song et al. 2021, appendices D to F.
        """
        check(kind in PREDICTORS[:3], "SDE.predictor", "kind", f"one of {PREDICTORS[:3]}", repr(kind))
        check(steps >= 1, "SDE.predictor", "steps", "at least 1", steps)
        rows = {"reverse-diffusion": self.discrete, "ancestral": self.ancestral}.get(kind, lambda _: None)(steps)
        if rows is None:
            known = kind != "ancestral"
            check(known, "SDE.predictor", "kind", f"one of {PREDICTORS[:2]} for {type(self).__name__}", repr(kind))
            t = self.times(steps)
            f, g2 = self.drift(t), self.diffusion(t)
            rows = 1 - f / steps, g2 / steps, (g2 / steps).sqrt()
        state, score, noise = rows
        if probability_flow:
            check(kind != "ancestral", "SDE.predictor", "kind", "another one for the probability flow", repr(kind))
            score, noise = score / 2, torch.zeros_like(noise)
        table = torch.zeros(steps, len(COLUMNS), dtype=torch.float64)
        table[:, COLUMNS.index("x")] = state
        table[:, COLUMNS.index("output")] = score
        table[:-1, COLUMNS.index("noise")] = noise[:-1]
        return table

    def flow(self, score: Score, *, divergence: str = "hutchinson", **solver: Any) -> CNF:
        """The probability flow as a layer: data at ``smallest_time`` to noise, with its log-determinant; needs ``ode``.

        Args:
            score: of states ``[B, *]`` and times ``[B]``.
            divergence, solver: see `genkern.nn.CNF`.
        """
        options = {"adjoint": False, **solver}
        return CNF(ProbabilityFlow(self, score), divergence=divergence, **options)

    def log_prob(self, score: Score, x: Tensor, *, divergence: str = "hutchinson", **solver: Any) -> Tensor:
        r"""Log-density in nats, ``[B]``, of states at ``smallest_time``, by the probability flow.

        .. math:: \log p(x) = \log \mathcal{N}(z; 0, \sigma_{prior}^2) + \int \operatorname{tr}
                  \frac{\partial}{\partial x} \left(f x - \tfrac12 g^2 s\right) dt
        """
        z, log_det = self.flow(score, divergence=divergence, **solver)(x)
        volume = x[0].numel() * math.log(self.prior_std)
        return gaussian_log_prob(z / self.prior_std) - volume + log_det

    @torch.no_grad()
    def ode_sample(self, score: Score, z: Tensor, **solver: Any) -> Tensor:
        """The state at ``smallest_time`` to which the probability flow carries noise ``z``."""
        flow = self.flow(score, **solver)
        with positions_only(flow):
            return flow.inverse(z)[0]

    def prior(self, shape: tuple[int, ...], *, key: Tensor, sample_offset: int = 0) -> Tensor:
        """Noise at time 1."""
        return self.prior_std * random.normal(key, shape, sample_offset=sample_offset)


class VPSDE(SDE):
    r"""Variance preserving: :math:`f = -\beta / 2`, :math:`g^2 = \beta`, with :math:`\beta` linear in time.

    >>> mean, std = VPSDE().marginal(torch.tensor(0.5))
    >>> round(float(mean**2 + std**2), 5)
    1.0
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0):
        if not 0 < beta_min <= beta_max:
            raise ValueError(f"{type(self).__name__}: wanted 0 < beta_min <= beta_max; got {beta_min}, {beta_max}.")
        self.beta_min, self.beta_max = beta_min, beta_max

    def beta(self, t: Tensor) -> Tensor:
        return self.beta_min + (self.beta_max - self.beta_min) * t

    def log_mean(self, t: Tensor) -> Tensor:
        return -0.25 * t.square() * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min

    def drift(self, t: Tensor) -> Tensor:
        return -0.5 * self.beta(t)

    def diffusion(self, t: Tensor) -> Tensor:
        return self.beta(t)

    def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        log_mean = self.log_mean(t)
        return log_mean.exp(), (-torch.expm1(2 * log_mean)).sqrt()

    def betas(self, steps: int) -> Tensor:
        """Of the discrete chain, last one first."""
        table = torch.linspace(self.beta_min / steps, self.beta_max / steps, steps, dtype=torch.float64).flip(0)
        check(bool(table[0] < 1), type(self).__name__, "steps", f"more than beta_max = {self.beta_max}", steps)
        return table

    def discrete(self, steps: int) -> tuple[Tensor, Tensor, Tensor] | None:
        beta = self.betas(steps)
        return 2 - (1 - beta).sqrt(), beta, beta.sqrt()

    def ancestral(self, steps: int) -> tuple[Tensor, Tensor, Tensor] | None:
        beta = self.betas(steps)
        return (1 - beta).rsqrt(), beta * (1 - beta).rsqrt(), beta.sqrt()

    def corrector_scale(self, steps: int) -> Tensor:
        return 1 - self.betas(steps)


class SubVPSDE(VPSDE):
    r"""Variances below those of `VPSDE`: :math:`g^2 = \beta (1 - m^4)`, so that :math:`\sigma = 1 - m^2`."""

    def diffusion(self, t: Tensor) -> Tensor:
        return self.beta(t) * -torch.expm1(4 * self.log_mean(t))

    def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        log_mean = self.log_mean(t)
        return log_mean.exp(), -torch.expm1(2 * log_mean)

    def discrete(self, steps: int) -> None:
        return None

    def ancestral(self, steps: int) -> None:
        return None


class VESDE(SDE):
    r"""Variance exploding: :math:`f = 0`, :math:`\sigma(t) = \sigma_0 (\sigma_1 / \sigma_0)^t`.

    :math:`g^2 = 2 \sigma^2 \ln(\sigma_1 / \sigma_0)`. At time 0 the equation's marginal is taken for the data.
    """

    smallest_time = 1e-5

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0):
        if not 0 < sigma_min < sigma_max:
            raise ValueError(f"VESDE: wanted 0 < sigma_min < sigma_max; got {sigma_min}, {sigma_max}.")
        self.sigma_min, self.sigma_max, self.prior_std = sigma_min, sigma_max, sigma_max

    def drift(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def diffusion(self, t: Tensor) -> Tensor:
        return 2 * math.log(self.sigma_max / self.sigma_min) * self.marginal(t)[1].square()

    def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), self.sigma_min * (self.sigma_max / self.sigma_min) ** t

    def _variances(self, steps: int) -> tuple[Tensor, Tensor]:
        """Of the discrete chain and of the level below each, last one first; the level below the first is 0."""
        ends = math.log(self.sigma_min), math.log(self.sigma_max)
        variance = (2 * torch.linspace(*ends, steps, dtype=torch.float64)).exp().flip(0)
        return variance, torch.cat([variance[1:], variance.new_zeros(1)])

    def discrete(self, steps: int) -> tuple[Tensor, Tensor, Tensor]:
        variance, below = self._variances(steps)
        return torch.ones_like(variance), variance - below, (variance - below).sqrt()

    def ancestral(self, steps: int) -> tuple[Tensor, Tensor, Tensor]:
        variance, below = self._variances(steps)
        return torch.ones_like(variance), variance - below, (below * (variance - below) / variance).sqrt()


class ProbabilityFlow(nn.Module):
    """The velocity of a `CNF` from ``smallest_time`` (0) to time 1."""

    def __init__(self, sde: SDE, score: Score):
        super().__init__()
        self.sde = sde
        self.score = score  # a module that is a score becomes a part of the layer

    def forward(self, time: Tensor, x: Tensor) -> Tensor:
        length = 1 - self.sde.smallest_time
        t = self.sde.smallest_time + length * time
        drift, half = length * self.sde.drift(t), length / 2 * self.sde.diffusion(t)
        return drift * x - half * self.score(x, t.expand(len(x)))


@torch.no_grad()
def predictor_corrector(
    sde: SDE,
    score: Score,
    x: Tensor,
    *,
    steps: int = 1000,
    key: Tensor,
    predictor: str = "reverse-diffusion",
    corrections: int = 1,
    snr: float = 0.16,
    per_sample: bool = False,
    probability_flow: bool = False,
    sample_offset: int = 0,
) -> Tensor:
    r"""Runs an equation backwards: at each time Langevin steps that correct, then a step that predicts.

    Args:
        score: :math:`s`, of states ``[B, *]`` and times ``[B]``.
        x: noise at time 1, `SDE.prior`; not changed.
        steps: :math:`N`.
        key: of all the noise.
        predictor: ``"euler-maruyama"``, ``"reverse-diffusion"``, ``"ancestral"``, or ``"none"``: correct only.
        corrections: Langevin steps at each time.
        snr: their signal-to-noise ratio, see `langevin_snr_step`.
        per_sample: their length follows from each sample, and not from the batch: a sample then does not depend on its
            batch. By default it does, as in the paper's code.
        probability_flow: predict by the ordinary equation.
        sample_offset: number of the first sample.

    Returns:
        The mean of the last step, like ``x``.

    Song et al. 2021 (arXiv:2011.13456), algorithms 1 to 5.
    """
    check(predictor in PREDICTORS, "predictor_corrector", "predictor", f"one of {PREDICTORS}", repr(predictor))
    check(corrections >= 0, "predictor_corrector", "corrections", "at least 0", corrections)
    x = x.detach().clone(memory_format=torch.contiguous_format)
    table = None
    if predictor != "none":
        table = sde.predictor(predictor, steps, probability_flow=probability_flow).to(x.device)
    times, scales = (values.to(x) for values in (sde.times(steps), sde.corrector_scale(steps)))
    numbers = torch.arange(steps, device=x.device)
    correct, predict = random.fold_in(key, CORRECT), random.fold_in(key, PREDICT)
    for k in range(steps):
        t = times[k].expand(len(x))
        for j in range(corrections):
            number, grad = random.fold_in(correct, k * corrections + j), score(x, t)
            if table is None and k + 1 == steps and j + 1 == corrections:  # the mean, as nothing follows
                _, length = langevin_snr_step(x, grad, snr, scales[k], key=number, per_sample=per_sample,
                                              sample_offset=sample_offset)  # fmt: skip
                return x + length.reshape(-1, *[1] * (x.dim() - 1)).to(x) * grad
            langevin_snr_step(x, grad, snr, scales[k], key=number, per_sample=per_sample, sample_offset=sample_offset,
                              out=x)  # fmt: skip
        if table is not None:
            diffusion_step(x, score(x, t), table, key=predict, step=numbers[k], sample_offset=sample_offset,
                           return_x0=False, out=x)  # fmt: skip
    return x
