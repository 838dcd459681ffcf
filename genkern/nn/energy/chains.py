"""Chains of Langevin dynamics: at one temperature, and along noise levels that shrink."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ... import random
from ...ops import langevin_step

Score = Callable[[Tensor], Tensor]


def score_of(energy: Callable[[Tensor], Tensor], x: Tensor, *, create_graph: bool = False) -> Tensor:
    r"""The score of a density :math:`e^{-E}`: :math:`-\nabla E(x)`, like ``x``.

    Args:
        energy: ``[B, *]`` to ``[B]``; each sample's depends on that sample alone.
        x: ``[B, *]``.
        create_graph: with derivatives of its own, for losses of scores. Without them ``x`` is taken for a constant.

    >>> score_of(lambda x: x.square().sum(1) / 2, torch.ones(1, 2))
    tensor([[-1., -1.]])
    """
    if not create_graph or not x.requires_grad:
        x = x.detach().requires_grad_()
    with torch.enable_grad():
        (grad,) = torch.autograd.grad(energy(x).sum(), x, create_graph=create_graph)
    return -grad


@torch.no_grad()
def langevin(
    score: Score,
    x: Tensor,
    *,
    steps: int,
    step: float | Tensor,
    scale: float | Tensor | None = None,
    key: Tensor,
    sample_offset: int = 0,
    clamp_grad: float | None = None,
    clamp: tuple[float | None, float | None] | None = None,
    order: str = "noise-last",
) -> Tensor:
    r"""A chain of Langevin steps, whose states carry no graph.

    .. math:: x_{k+1} = x_k + a\, s(x_k) + b\, z_k, \qquad z_k = z(\mathrm{fold\_in}(key, k))

    Args:
        score: :math:`s`, from ``[B, *]`` to the same.
        x: first states; they are not changed.
        steps: how many.
        step, scale, clamp_grad, clamp: see `genkern.ops.langevin_step`.
        key: step ``k`` draws with ``fold_in(key, k)``.
        sample_offset: number of the first sample: a chain does not depend on the batch that it is part of.
        order: ``"noise-first"`` adds the noise of a step before its gradient is taken, and clamps after it.

    Returns:
        The last states, like ``x``.

    >>> x = langevin(lambda x: -x, torch.zeros(4, 2), steps=100, step=0.1, key=random.key(0))
    """
    x = x.detach().clone(memory_format=torch.contiguous_format)
    options = {"sample_offset": sample_offset, "clamp_grad": clamp_grad, "clamp": clamp, "order": order}
    if order == "noise-first":
        scale = (2 * torch.as_tensor(step)).sqrt().to(x) if scale is None else scale
        if steps:  # the first noise alone, then with each gradient the noise of the next step
            langevin_step(x, x, 0.0, scale, key=random.fold_in(key, 0), sample_offset=sample_offset, out=x)
        for k in range(steps):
            last = k + 1 == steps
            shake = 0.0 if last else scale
            langevin_step(x, score(x), step, shake, key=random.fold_in(key, k + 1), out=x, **options)  # type: ignore[arg-type]
        return x
    for k in range(steps):
        langevin_step(x, score(x), step, scale, key=random.fold_in(key, k), out=x, **options)  # type: ignore[arg-type]
    return x


@torch.no_grad()
def annealed_langevin(
    score: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    sigmas: Sequence[float] | Tensor,
    *,
    steps: int = 5,
    step: float,
    key: Tensor,
    sample_offset: int = 0,
    denoise: bool = True,
    temperature: float = 1.0,
) -> Tensor:
    r"""Langevin dynamics along noise levels that shrink, each with a step in proportion to its variance.

    .. math:: a_i = \epsilon\, \sigma_i^2 / \sigma_L^2, \qquad x \leftarrow x + a_i\, s(x, \sigma_i) + \sqrt{2 a_i}\, z,
              \qquad x \leftarrow x + \sigma_L^2\, s(x, \sigma_L)

    Args:
        score: :math:`s`, of states ``[B, *]`` and their noise levels ``[B]``.
        x: first states, ``[B, *]``; they are not changed.
        sigmas: :math:`\sigma_1 > \dots > \sigma_L`; numbers, or a tensor on the CPU.
        steps: :math:`T` at each level.
        step: :math:`\epsilon`; see `tuned_step`. The first paper writes half of it.
        key: step ``t`` at level ``i`` draws with ``fold_in(key, i * steps + t)``.
        sample_offset: number of the first sample.
        denoise: end with the expected data given the last state.
        temperature: scales the variance of the noise.

    Song & Ermon 2020 (arXiv:2006.09011), algorithm 1 and section 4.1; 2019 (arXiv:1907.05600).

    >>> score = lambda x, sigma: -x / (1 + sigma[:, None] ** 2)  # of N(0, 1) under noise
    >>> x = annealed_langevin(score, 5 * torch.randn(8, 2), noise_levels(5, 0.1, 10), step=1e-3, key=random.key(0))
    """
    x = x.detach().clone(memory_format=torch.contiguous_format)
    levels = [float(sigma) for sigma in sigmas]
    for i, sigma in enumerate(levels):
        level = torch.full((len(x),), sigma, dtype=x.dtype, device=x.device)
        a = step * (sigma / levels[-1]) ** 2
        for t in range(steps):
            number = random.fold_in(key, i * steps + t)
            scale = math.sqrt(2 * a * temperature)
            langevin_step(x, score(x, level), a, scale, key=number, sample_offset=sample_offset, out=x)
    if denoise and levels:
        level = torch.full((len(x),), levels[-1], dtype=x.dtype, device=x.device)
        langevin_step(x, score(x, level), levels[-1] ** 2, 0.0, key=key, out=x)
    return x


def noise_levels(largest: float, smallest: float, count: int) -> list[float]:
    """A geometric sequence that shrinks from one noise level to the other.

    Args:
        largest: where it begins: about the largest distance between two samples of the data.
        smallest: where it ends.
        count: how many.

    >>> noise_levels(4.0, 1.0, 3)
    [4.0, 2.0, 1.0]
    """
    if not largest >= smallest > 0 or count < 1:
        raise ValueError(
            f"noise_levels: wanted largest >= smallest > 0 and a count; got {largest}, {smallest}, {count}."
        )
    ratio = (smallest / largest) ** (1 / max(count - 1, 1))
    return [largest * ratio**i for i in range(count)]


def tuned_step(sigmas: Sequence[float], steps: int) -> float:
    r"""The step :math:`\epsilon` of `annealed_langevin` with which a level ends with the variance that is its own.

    For data at a point, a level that starts with the variance :math:`\sigma_{i-1}^2` ends after T steps with

    .. math:: \frac{s_T^2}{\sigma_i^2} = (1 - r)^{2T} \left(\gamma^2 - \frac{2r}{1 - (1-r)^2}\right)
              + \frac{2r}{1 - (1-r)^2}, \qquad r = \epsilon / \sigma_L^2, \quad \gamma = \sigma_{i-1} / \sigma_i

    and the step is the one that brings this nearest to 1.

    Args:
        sigmas: the noise levels, falling, as of `noise_levels`.
        steps: :math:`T`, at each of them.

    Song & Ermon 2020 (arXiv:2006.09011), proposition 4.

    >>> 0 < tuned_step(noise_levels(50.0, 0.01, 200), steps=5) < 1e-4
    True
    """
    if len(sigmas) < 2:
        raise ValueError(f"tuned_step: sigmas must be two or more; got {list(sigmas)}.")
    gamma = (sigmas[0] / sigmas[-1]) ** (1 / (len(sigmas) - 1))

    def distance(r: float) -> float:
        stationary = 2 * r / (1 - (1 - r) ** 2)
        return abs((1 - r) ** (2 * steps) * (gamma**2 - stationary) + stationary - 1)

    candidates = [10 ** (-4 + 4 * i / 4000) for i in range(4000)]  # of r, from 1e-4 up to 1
    return min(candidates, key=distance) * sigmas[-1] ** 2
