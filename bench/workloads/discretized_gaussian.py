"""Terms of the variational bound over a batch of images at steps of their own, and the decoder's likelihood alone."""

import math
from typing import Any

import torch
from torch import Tensor

from genkern.ops import discretized_gaussian, vlb_coefficients, vlb_term

from ..registry import FORWARD, Function, Inputs, Rival, Workload, seeded, shape_name


def _pixels(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    return (torch.randint(0, 256, shape).to(torch.float64) * 2 / 255 - 1).to(device, dtype)


def _table(variance_type: str) -> Tensor:
    alphas_cumprod = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
    return vlb_coefficients(alphas_cumprod, variance_type=variance_type)


def _published_likelihood(x: Tensor, means: Tensor, log_scales: Tensor) -> Tensor:
    centered, inverse = x - means, torch.exp(-log_scales)

    def cdf(x: Tensor) -> Tensor:
        return 0.5 * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))

    above, below = cdf(inverse * (centered + 1 / 255)), cdf(inverse * (centered - 1 / 255))
    inner = torch.where(x > 0.999, (1 - below).clamp(min=1e-12).log(), (above - below).clamp(min=1e-12).log())
    return torch.where(x < -0.999, above.clamp(min=1e-12).log(), inner)


def published(x0: Tensor, x_t: Tensor, output: Tensor, *rest: Tensor) -> Tensor:
    """`_vb_terms_bpd` of improved-diffusion, its formulas and their order; in nats, as sums."""
    columns = rest[-1].to(x0.dtype).reshape(-1, 8, *[1] * (x0.dim() - 1)).unbind(1)
    of_x_t, of_output, mean_x0, mean_x_t, log_q, low, high, decoder = (column.expand(x0.shape) for column in columns)
    true_mean = mean_x0 * x0 + mean_x_t * x_t
    mean = mean_x0 * (of_x_t * x_t + of_output * output).clamp(-1, 1) + mean_x_t * x_t
    log_variance = low
    if len(rest) == 2:
        share = (rest[0] + 1) / 2
        log_variance = share * high + (1 - share) * low
    divergence = 0.5 * (
        -1.0 + log_variance - log_q + torch.exp(log_q - log_variance)
        + ((true_mean - mean) ** 2) * torch.exp(-log_variance)
    )  # fmt: skip
    likelihood = _published_likelihood(x0, mean, 0.5 * log_variance)
    return torch.where(decoder.flatten(1)[:, 0] != 0, -likelihood.flatten(1).sum(1), divergence.flatten(1).sum(1))


# Its float32 differences of nearby numbers are further from the truth than any provider may be.
PUBLISHED = {
    "improved-diffusion": Rival(lambda: published, same_values=False),
    "improved-diffusion, compiled": Rival(lambda: torch.compile(published, dynamic=False), same_values=False),
}


def term(shape: tuple[int, ...], variance_type: str, cdf: str, **description: Any) -> Workload:
    learned = variance_type == "learned_range"

    def make(device: torch.device, dtype: torch.dtype) -> Inputs:
        x0 = _pixels(shape, device, dtype)
        steps = torch.linspace(0, 999, shape[0]).long()  # one sample at step 0, as in the sum over all steps
        rows = _table(variance_type)[steps].to(device)
        near = [0.7 * x0 + 0.7 * seeded(shape, device, dtype), seeded(shape, device, dtype)]
        return (x0, *near, *([0.5 * seeded(shape, device, dtype)] if learned else []), rows)

    def run(impl: str) -> Function:
        def apply(x0: Tensor, x_t: Tensor, output: Tensor, *rest: Tensor) -> Tensor:
            variance = rest[0] if learned else None
            return vlb_term(x0, x_t, output, rest[-1], variance=variance, cdf=cdf, impl=impl)

        return apply

    name = f"term, {variance_type}, {cdf}, {shape_name(shape)}"
    return Workload(name, make, run, modes=(FORWARD,), **description)


def likelihood(shape: tuple[int, ...], cdf: str) -> Workload:
    def make(device: torch.device, dtype: torch.dtype) -> Inputs:
        x = _pixels(shape, device, dtype)
        return x, x + 0.02 * seeded(shape, device, dtype), 0.3 * seeded(shape, device, dtype) - 4

    def run(impl: str) -> Function:
        return lambda x, mean, log_std: discretized_gaussian(x, mean, log_std, cdf=cdf, impl=impl)

    return Workload(f"likelihood, {cdf}, {shape_name(shape)}", make, run)


WORKLOADS = [
    term((64, 3, 64, 64), "fixed_small", "tanh", quick=("eager",), rivals=PUBLISHED),
    term((64, 3, 64, 64), "learned_range", "tanh", rivals=PUBLISHED),
    term((64, 3, 64, 64), "learned_range", "erf"),
    likelihood((64, 3, 32, 32), "tanh"),
    likelihood((64, 3, 32, 32), "erf"),
    term((4, 8), "fixed_small", "tanh", launch=True),
]
SWEEP = [term((b, 3, 64, 64), "learned_range", "erf") for b in (1, 8, 64, 512)]
