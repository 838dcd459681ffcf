"""Draws in one dimension by the inverse of a cumulative distribution, and weights from scores: plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def empirical_inverse_cdf(samples: Tensor, u: Tensor) -> Tensor:
    r"""Quantiles of samples: :math:`F^{-1}(u)`, linear between the sorted samples.

    .. math:: F^{-1}(u) = (1 - w)\, x_{(i)} + w\, x_{(i+1)}, \qquad i + w = u (N - 1)

    which is exact at :math:`u = i / (N - 1)`. With uniform ``u`` it draws from the samples, smoothed.

    Args:
        samples: ``[*, N]``, in any order.
        u: in [0, 1], ``[*, M]``.

    Returns:
        ``[*, M]``. Derivatives in both, where samples differ.

    >>> empirical_inverse_cdf(torch.tensor([3.0, 1.0, 2.0]), torch.tensor([0.0, 0.25, 0.5, 1.0]))
    tensor([1.0000, 1.5000, 2.0000, 3.0000])
    """
    if samples.dim() < 1 or samples.shape[-1] < 1:
        raise ValueError(
            f"empirical_inverse_cdf: samples must be [*, N] with N of at least 1; got {list(samples.shape)}."
        )
    ordered = samples.sort(-1).values
    place = u.clamp(0, 1) * (samples.shape[-1] - 1)
    below = place.detach().nan_to_num().floor().long().clamp(max=max(samples.shape[-1] - 2, 0))
    weight = place - below
    ordered = ordered.expand(*torch.broadcast_shapes(ordered.shape[:-1], u.shape[:-1]), -1)
    below = below.expand(*ordered.shape[:-1], -1)
    low, high = ordered.gather(-1, below), ordered.gather(-1, (below + 1).clamp(max=samples.shape[-1] - 1))
    return torch.lerp(low, high, weight.to(low).expand_as(low))


def histogram_inverse_cdf(logits: Tensor, u: Tensor, edges: Tensor | None = None) -> Tensor:
    r"""Quantiles of a histogram: bins of probability ``softmax(logits)``, each of even density between its edges.

    .. math:: F^{-1}(u) = e_i + (e_{i+1} - e_i) \frac{u - c_i}{p_i}, \qquad c_i = \sum_{j < i} p_j \le u < c_i + p_i

    Args:
        logits: ``[*, K]``; a bin of -inf is never drawn from.
        u: in [0, 1), ``[*, M]``.
        edges: increasing, ``[K + 1]``; None: the bins divide [0, 1] evenly.

    Returns:
        ``[*, M]``. Derivatives in all of them.

    >>> histogram_inverse_cdf(torch.zeros(4), torch.tensor([0.0, 0.3, 0.5]))
    tensor([0.0000, 0.3000, 0.5000])
    """
    bins = logits.shape[-1] if logits.dim() else 0
    if bins < 1:
        raise ValueError(
            f"histogram_inverse_cdf: logits must be [*, K] with K of at least 1; got {list(logits.shape)}."
        )
    if edges is None:
        edges = torch.arange(bins + 1, dtype=logits.dtype, device=logits.device) / bins
    if edges.shape != (bins + 1,):
        raise ValueError(f"histogram_inverse_cdf: edges must be [K + 1] = [{bins + 1}]; got {list(edges.shape)}.")
    shape = torch.broadcast_shapes(logits.shape[:-1], u.shape[:-1])
    p = logits.softmax(-1).expand(*shape, bins)
    u = u.to(p).expand(*shape, -1)
    cumulative = p.cumsum(-1)
    passed = cumulative.detach().unsqueeze(-2)  # [*, 1, K]
    place = ((passed <= u.detach().unsqueeze(-1)) & (passed < passed[..., -1:])).sum(-1)  # a bin of positive mass
    mass = p.gather(-1, place)
    within = ((u - (cumulative.gather(-1, place) - mass)) / mass).clamp(0, 1)
    low, high = edges[place], edges[place + 1]
    return low + (high - low) * within


def softmax(scores: Tensor, dim: int = -1, temperature: float = 1.0) -> Tensor:
    """Weights :math:`e^{s_i / T} / \\sum e^{s_j / T}`; at temperature 0 all is on the largest (the first of equals).

    Args:
        scores: any shape.
        dim: over which the weights sum to 1.
        temperature: ``T``, not negative.

    >>> softmax(torch.tensor([1.0, 3.0, 3.0]), temperature=0.0)
    tensor([0., 1., 0.])
    """
    if temperature < 0:
        raise ValueError(f"softmax: temperature must not be negative; got {temperature}.")
    if temperature == 0:
        return torch.zeros_like(scores).scatter(dim, scores.argmax(dim, keepdim=True), 1.0)
    return ((scores - scores.amax(dim, keepdim=True).detach()) / temperature).softmax(dim)


def softmin(scores: Tensor, dim: int = -1, temperature: float = 1.0) -> Tensor:
    """Weights :math:`e^{-s_i / T} / \\sum e^{-s_j / T}`: most of it on the smallest.

    >>> softmin(torch.tensor([0.0, 0.0]))
    tensor([0.5000, 0.5000])
    """
    return softmax(-scores, dim, temperature)
