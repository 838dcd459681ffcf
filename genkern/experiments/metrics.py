"""How good a model is on held-out data, and the baselines that say how good that is."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import random
from ..models import Batch, GenerativeModel

CHUNK = 250  # samples evaluated at a time; a constant, so that the noise of an evaluation is too


def unit(model: GenerativeModel) -> str:
    """Of the number that `held_out` gives: bits/dim of integer pixels, nats of vectors, or the family's own loss."""
    if not model.capabilities & {"log_prob", "elbo"}:
        return "loss"
    return "nats" if model.config.levels is None else "bits/dim"


@torch.no_grad()
def nll_sum(model: GenerativeModel, x: Tensor, *, key: Tensor, rank: int = 0, world_size: int = 1) -> Tensor:
    """Negative log-likelihood in nats (or its bound, or else the loss), summed over this process's share of ``x``.

    Chunk ``i`` has the noise of ``fold_in(key, i)``, whichever process it falls to. float64, on the key's device.
    """
    training = model.training
    model.eval()
    total = torch.zeros((), dtype=torch.float64, device=key.device if key.device.type != "mps" else "cpu")
    for i, chunk in enumerate(x.split(CHUNK)):
        if i % world_size == rank:
            total += _nll(model, like(model, chunk), random.fold_in(key, i)).to(total)
    model.train(training)
    return total


def _nll(model: GenerativeModel, x: Tensor, key: Tensor) -> Tensor:
    for name in ("log_prob", "elbo"):
        if name in model.capabilities:
            return -getattr(model, name)(x, key=key).double().sum()
    return model.loss(Batch(x), key=key).total.double() * len(x)


def like(model: GenerativeModel, x: Tensor) -> Tensor:
    """Samples on the model's device and, where they are vectors, in its dtype."""
    parameter = next(model.parameters())
    return x.to(parameter.device, parameter.dtype if x.is_floating_point() else x.dtype)


def per_unit(nats: float, model: GenerativeModel) -> float:
    """Nats a sample in the model's `unit`."""
    return nats / (math.prod(model.config.shape) * math.log(2)) if unit(model) == "bits/dim" else nats


def held_out(model: GenerativeModel, x: Tensor, *, key: Tensor | None = None) -> float:
    """Mean negative log-likelihood of ``x`` in the model's `unit`; smaller is better."""
    if key is None:
        key = random.key(0, device=next(model.parameters()).device)
    return per_unit(float(nll_sum(model, x, key=key)) / len(x), model)


def bits_per_dim(model: GenerativeModel, x: Tensor, *, key: Tensor | None = None) -> float:
    r"""Mean of :math:`-\log p(x) / (D \ln 2)` for integer pixels.

    Raises:
        ValueError: where the model has no likelihood of integer pixels.
    """
    if unit(model) != "bits/dim":
        raise ValueError(f"bits_per_dim: {type(model).__name__} with levels={model.config.levels} has {unit(model)}.")
    return held_out(model, x, key=key)


def uniform_bits_per_dim(levels: int) -> float:
    """Of a model that knows nothing: every level of every pixel is as likely."""
    return math.log2(levels)


def histogram_bits_per_dim(train: Tensor, test: Tensor, levels: int) -> float:
    """Of a histogram for each pixel alone, with one imagined sample of each level (Laplace's rule)."""
    counts = torch.ones(train[0].numel(), levels, dtype=torch.float64)
    rows = train.flatten(1).long().T  # [pixels, N]
    counts.scatter_add_(1, rows, torch.ones_like(rows, dtype=torch.float64))
    log2 = (counts / counts.sum(1, keepdim=True)).log2()
    return float(-log2.gather(1, test.flatten(1).long().T).mean())


def gaussian_nats(train: Tensor, test: Tensor) -> float:
    """Of the Gaussian with the mean and covariance of the training vectors."""
    train, test = train.flatten(1).double(), test.flatten(1).double()
    return float(-torch.distributions.MultivariateNormal(train.mean(0), train.T.cov()).log_prob(test).mean())


@torch.no_grad()
def reconstruction_error(model: GenerativeModel, x: Tensor) -> dict[str, float]:
    """Root mean square and largest difference of ``x`` and its reconstruction, in the units of the data.

    A flow gives integer pixels back exactly; ``before_rounding`` is then the largest difference that rounding hid.
    """
    pairs = [(chunk, model.reconstruct(chunk)) for chunk in like(model, x).split(CHUNK)]  # type: ignore[operator]
    difference = torch.cat([(again.double() - chunk.double()).cpu() for chunk, again in pairs])
    error = {"rmse": float(difference.square().mean().sqrt()), "max": float(difference.abs().max())}
    if hasattr(model, "reconstruction_error") and model.config.levels is not None:
        error["before_rounding"] = float(model.reconstruction_error(like(model, x[:CHUNK])))  # type: ignore[operator]
    return error
