"""What all variational autoencoders share: bounds of the likelihood, codes there and back, samples and pictures."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from ... import random
from ...nn import PixelLikelihood, SoftFreeBits, free_bits, pixel_likelihood
from .._base import Batch, GenerativeModel, Loss, as_batch

Latents = Tensor | list[Tensor]  # [B, *]; of a hierarchy one for each of its groups
PATHS, STEPS, PAIRS = 8, 8, 32  # of the pictures


class Inference(NamedTuple):
    """Of one draw of the latents: ``log p(x | z)``, ``[B]``, and what each group of latents costs, ``[B, groups]``."""

    log_likelihood: Tensor
    divergence: Tensor
    z: Latents


class VAE(GenerativeModel):
    r"""A latent variable model with an approximate posterior.

    .. math:: \log p(x) \ge \mathbb{E}_{q(z|x)}[\log p(x \mid z)] - \mathrm{KL}(q(z \mid x) \,\|\, p(z))

    A model defines `infer`, `encode`, `draw_prior` and `decode`, and sets ``self.likelihood``. Its config holds
    ``shape``, ``levels``, ``likelihood`` (of the pixels: the name of a head of `genkern.nn.likelihoods`), ``free_bits``
    (nats that each group may cost for nothing in training; 0: none) and ``soft_free_bits`` (None, or nats a sample).
    """

    def __init__(self, config: Any):
        super().__init__(config)
        check_picture(type(self).__name__, config)
        self.likelihood: PixelLikelihood = pixel_likelihood(config.likelihood, config.shape[0], config.levels)
        target = getattr(config, "soft_free_bits", None)
        self.soft_free_bits = None if target is None else SoftFreeBits(target)

    # -- what a family defines ----------------------------------------------------------------------------------

    def infer(self, x: Tensor, *, key: Tensor, sample_offset: int = 0, sampled: bool = False) -> Inference:
        """One draw of the latents of ``x``; the divergence in closed form, or ``sampled``, of the draw itself."""
        raise NotImplementedError(f"{type(self).__name__} does not define infer.")

    def encode(self, x: Tensor, *, key: Tensor | None = None, sample_offset: int = 0) -> Latents:
        """Latents of ``x``: a draw from the posterior, or without a key its mean."""
        raise NotImplementedError(f"{type(self).__name__} does not define encode.")

    def draw_prior(self, n: int, *, key: Tensor, temperature: float = 1.0, sample_offset: int = 0) -> Latents:
        """``n`` latents of the prior, its deviations multiplied by the temperature."""
        raise NotImplementedError(f"{type(self).__name__} does not define draw_prior.")

    def decode(
        self, z: Latents, *, key: Tensor | None = None, temperature: float = 1.0, sample_offset: int = 0
    ) -> Tensor:
        """Integer pixels of latents: drawn, or without a key the likeliest."""
        raise NotImplementedError(f"{type(self).__name__} does not define decode.")

    # -- the protocol -------------------------------------------------------------------------------------------

    def elbo(self, x: Tensor, *, key: Tensor | None = None, sample_offset: int = 0) -> Tensor:
        """The evidence lower bound of ``log p(x)`` in nats, ``[B]``, estimated by one draw of the latents."""
        found = self.infer(self._check(x), key=self._key(key, x), sample_offset=sample_offset)
        return found.log_likelihood - found.divergence.sum(1)

    @torch.no_grad()
    def log_prob_bound(
        self, x: Tensor, *, samples: int = 64, key: Tensor | None = None, sample_offset: int = 0
    ) -> Tensor:
        r"""The importance-weighted bound, tighter the more samples: :math:`\log \tfrac1K \sum_k p(x, z_k) / q(z_k|x)`.

        Nats, ``[B]``. Burda et al. 2016 (arXiv:1509.00519), eq. 8.
        """
        if samples < 1:
            raise ValueError(f"{type(self).__name__}.log_prob_bound: samples must be 1 or more; got {samples}.")
        key, weights = self._key(key, x), []
        for k in range(samples):
            found = self.infer(self._check(x), key=random.fold_in(key, k), sample_offset=sample_offset, sampled=True)
            weights.append(found.log_likelihood - found.divergence.sum(1))
        return torch.stack(weights).logsumexp(0) - math.log(samples)

    def loss(self, batch: Batch | Tensor, *, key: Tensor | None = None, sample_offset: int = 0) -> Loss:
        """The bound in bits per dimension, in training with free bits; ``bits_per_dim`` is the bound itself."""
        x = self._check(as_batch(batch).x)
        found = self.infer(x, key=self._key(key, x), sample_offset=sample_offset)
        distortion, kl = -found.log_likelihood.mean(), found.divergence.sum(1)
        cost = kl.mean()
        if self.training and self.config.free_bits:
            cost = free_bits(found.divergence, self.config.free_bits)
        elif self.training and self.soft_free_bits is not None:
            cost = self.soft_free_bits(kl)
        unit = 1 / (x[0].numel() * math.log(2))
        terms = {
            "bits_per_dim": ((distortion + kl.mean()) * unit).detach(),
            "distortion": distortion.detach(),
            "kl": kl.mean().detach(),
        }
        return Loss((distortion + cost) * unit, terms)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        key: Tensor,
        temperature: float = 1.0,
        pixel_temperature: float | None = None,
        sample_offset: int = 0,
    ) -> Tensor:
        """``n`` pictures of integer pixels.

        Args:
            key: from `genkern.random.key`; the noise of sample ``i`` is that of number ``sample_offset + i``.
            temperature: multiplies the deviations of the prior.
            pixel_temperature: of the pixels given the latents; None: the same; 0: the likeliest.
            sample_offset: the number of the first sample.
        """
        for_latents, for_pixels = random.split(key)
        z = self.draw_prior(n, key=for_latents, temperature=temperature, sample_offset=sample_offset)
        of_pixels = temperature if pixel_temperature is None else pixel_temperature
        return self.decode(z, key=for_pixels, temperature=of_pixels, sample_offset=sample_offset)

    @torch.no_grad()
    def reconstruct(self, x: Tensor, *, key: Tensor | None = None) -> Tensor:
        """The pictures of the latents of ``x``: of the posterior's mean and the likeliest pixels, or both drawn."""
        keys = (None, None) if key is None else random.split(key)
        return self.decode(self.encode(self._check(x), key=keys[0]), key=keys[1])

    @torch.no_grad()
    def interpolate(self, a: Tensor, b: Tensor, steps: int = STEPS) -> Tensor:
        """Pictures on the way from ``a`` to ``b``, ``[B, steps, C, H, W]``, straight in the space of the latents."""
        first, last = self.encode(self._check(a)), self.encode(self._check(b))
        ways = [self.decode(between(first, last, i / (steps - 1))) for i in range(steps)]
        return torch.stack(ways, dim=1)

    def pictures(self, x: Tensor, *, key: Tensor) -> dict[str, Tensor]:
        """``reconstructions``: pairs of data and what comes back; ``interpolation``: a path between two in each row."""
        pairs = torch.stack([x[:PAIRS], self.reconstruct(x[:PAIRS]).to(x)], dim=1).flatten(0, 1)
        paths = self.interpolate(x[:PATHS], x[PATHS : 2 * PATHS]).flatten(0, 1)
        return {"reconstructions": pairs, "interpolation": paths}

    # -- small matters ------------------------------------------------------------------------------------------

    def scale(self, x: Tensor) -> Tensor:
        """Integer pixels to [-1, 1]."""
        return x.to(next(self.parameters()).dtype) * (2 / (self.config.levels - 1)) - 1

    def _key(self, key: Tensor | None, x: Tensor) -> Tensor:
        return random.key_from(device=x.device) if key is None else key

    def _check(self, x: Tensor) -> Tensor:
        name, config = type(self).__name__, self.config
        if tuple(x.shape[1:]) != tuple(config.shape):
            raise ValueError(f"{name}: x must be {['B', *config.shape]}; got {list(x.shape)}.")
        if x.is_floating_point():
            raise TypeError(f"{name}: x must be integer pixels in [0, {config.levels}); got {x.dtype}.")
        return x


def between(first: Latents, last: Latents, weight: float) -> Latents:
    if isinstance(first, Tensor):
        return torch.lerp(first, cast(Tensor, last), weight)
    return [torch.lerp(a, b, weight) for a, b in zip(first, last, strict=True)]


def check_picture(model: str, config: Any) -> None:
    """Complains unless the config is one of integer pictures."""
    if len(config.shape) != 3:
        raise ValueError(f"{model}: shape must be (channels, height, width); got {config.shape}.")
    if config.levels is None or config.levels < 2:
        raise ValueError(f"{model}: levels must be 2 or more; got {config.levels}.")
