"""What all autoregressive models share: exact likelihoods of integer pixels, and samples that follow from the noise."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from ... import random
from ...nn.autoregressive import Progress, cached, is_traceable, jacobi, naive
from ...ops._checks import check_levels
from .._base import Batch, GenerativeModel, Loss, as_batch, labels_of_samples

METHODS = ("auto", "cached", "wavefront", "jacobi", "naive")


class AutoregressiveModel(GenerativeModel):
    r"""A distribution of integer pixels, as a product of conditionals in raster order, sub-pixels R, G, B innermost.

    .. math:: \log p(x \mid y) = \sum_i \log p(x_i \mid x_{<i}, y)

    A model defines `logits`: of a categorical for every sub-pixel, or whatever parameters its family has; then it also
    overrides `conditional_log_prob`, `draw` and `noise_shape`, and sets ``joint = True`` if one pass gives all channels
    of a pixel. Its config holds ``shape``, ``levels`` and ``classes`` (None: no class conditioning). Where there is no
    likelihood, it sets ``log_prob = None`` and overrides `loss`.

    Where ``network`` is made of causal layers alone, ``logits`` are `by_levels` of ``network(scale(x))``, or of
    ``network(scale(x), condition(y))``, and samples are drawn with a cache; so they are where ``head_kind`` is
    ``"mixture"`` and ``logits`` are what the network gives.

    A sample is a function of the weights and of uniform numbers, which depend on the key, the sample and the pixel
    alone: every method of sampling gives the same pixels.
    """

    joint = False
    head_kind = "categorical"  # what the network gives of a pixel; see `genkern.autoregressive.sample`

    # -- what a family defines ----------------------------------------------------------------------------------

    def logits(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Unnormalised log-probabilities of the levels, ``[B, levels, C, H, W]``, each of the pixels before it.

        Args:
            x: integer pixels, ``[B, C, H, W]``; `scale` brings them to [-1, 1].
            y: class labels, ``[B]``, where the config has classes.
        """
        raise NotImplementedError(f"{type(self).__name__} has no logits.")

    def conditional_log_prob(self, logits: Tensor, x: Tensor) -> Tensor:
        """Log-probability of every sub-pixel (or pixel) in nats, ``[B, *]``, float32 or wider."""
        table = log_softmax(logits.to(self.dtype), dim=1)
        return table.gather(1, x.long().unsqueeze(1)).squeeze(1)

    def noise_shape(self) -> tuple[int, ...]:
        """Of the uniform numbers that one sample takes: ``(*, H, W)``."""
        return tuple(self.config.shape)

    def draw(self, logits: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """Integer pixels, ``[B, C, H', W']``, of any rectangle, by the inverse of the cumulative distribution.

        The level is the number of those whose cumulative probability the uniform number exceeds; temperature 0 takes
        the most likely one.
        """
        if temperature == 0:
            return logits.argmax(1).to(self.pixel_dtype)
        logits = logits.to(self.dtype) / temperature
        cumulative = (logits - logits.amax(1, keepdim=True)).exp().cumsum(1)  # [B, levels, C, H', W']
        threshold = noise.to(self.dtype).unsqueeze(1) * cumulative[:, -1:]
        return (cumulative[:, :-1] < threshold).sum(1).to(self.pixel_dtype)

    # -- the protocol -------------------------------------------------------------------------------------------

    def log_prob(
        self, x: Tensor, *, y: Tensor | None = None, key: Tensor | None = None, sample_offset: int = 0
    ) -> Tensor:
        r"""Exact log-probability of integer pixels in nats, ``[B]``, float32 or wider.

        Without labels a class-conditional model sums over classes, each as likely as the others:
        :math:`\log p(x) = \log \tfrac1K \sum_y p(x \mid y)`, at the cost of a pass for each.
        """
        classes = self._check(x, y).classes
        if classes is None or y is not None:
            return self.conditional_log_prob(self.logits(x, y), x).flatten(1).sum(1)
        labels = torch.arange(classes, device=x.device)
        by_class = [self.log_prob(x, y=label.expand(len(x))) for label in labels]
        return torch.stack(by_class).logsumexp(0) - math.log(classes)

    def loss(self, batch: Batch | Tensor, *, key: Tensor | None = None, sample_offset: int = 0) -> Loss:
        """Mean negative log-likelihood in bits per dimension; given the labels, where the model is conditional."""
        x, y = as_batch(batch)
        y = None if self.config.classes is None else y
        nats = -self.log_prob(x, y=y, key=key, sample_offset=sample_offset).mean()
        bits_per_dim = nats / (x[0].numel() * math.log(2))
        return Loss(bits_per_dim, {"nats": nats.detach(), "bits_per_dim": bits_per_dim.detach()})

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        key: Tensor,
        temperature: float = 1.0,
        y: Tensor | int | None = None,
        given: Tensor | None = None,
        mask: Tensor | None = None,
        first_row: int = 0,
        method: str = "auto",
        sample_offset: int = 0,
        progress: Progress | None = None,
    ) -> Tensor:
        """``n`` samples, ``[n, C, H, W]``; the same pixels by every method.

        Args:
            key: from `genkern.random.key`; the noise of sample ``i`` is that of number ``sample_offset + i``.
            temperature: of the categoricals; 0 takes the most likely level.
            y: labels, ``[n]`` or one for all; without them a conditional model takes its classes in turn.
            given: pixels to complete, ``[n, C, H, W]`` or ``[C, H, W]``.
            mask: bool, ``[H, W]``: True where the pixels of `given` are kept.
            first_row: all rows of `given` above it are kept.
            method: ``"cached"``, every activation computed once, in one call; ``"wavefront"``, the same with a pixel of
                every row at a time; ``"jacobi"``, whole passes until nothing changes; ``"naive"``, a pass for every
                sub-pixel; ``"auto"``, the first of these that can be.
            sample_offset: the number of the first sample.
            progress: called now and then with how much is done and how much there is; places of a picture,
                pictures, or steps of the wavefront.
        """
        if not temperature >= 0:
            raise ValueError(f"{type(self).__name__}: temperature must be 0 or more; got {temperature}.")
        labels = self.labels(n, y, key.device, sample_offset)
        noise = self.noise(n, key=key, sample_offset=sample_offset)
        x, free = self.canvas(n, key.device, given, mask, first_row)
        return self.sample_with(noise, x, free, labels, temperature=temperature, method=method, progress=progress)

    def sample_with(
        self,
        noise: Tensor,
        x: Tensor,
        free: Tensor,
        y: Tensor | None,
        *,
        temperature: float,
        method: str,
        progress: Progress | None = None,
    ) -> Tensor:
        """`sample` of given noise: fills the free pixels of ``x``."""
        if method not in METHODS:
            raise ValueError(f"{type(self).__name__}.sample: method must be one of {METHODS}; got {method!r}.")
        network: nn.Module | None = getattr(self, "network", None)
        if method == "auto":
            traceable = network is not None and is_traceable(
                network, x.shape[1], head=self.head_kind, conditional=y is not None
            )
            method = "cached" if traceable else "jacobi"
        training = self.training
        self.eval()
        try:
            if method in ("cached", "wavefront"):
                if network is None:
                    raise ValueError(f"{type(self).__name__}.sample: method {method!r} needs a stack of causal layers.")
                return cached(
                    network, x, noise, free, levels=self.config.levels, head=self.head_kind, method=method,
                    condition=self.condition(y), temperature=temperature, progress=progress,
                )  # fmt: skip
            if method == "naive":
                return naive(
                    lambda x: self.logits(x, y), lambda logits, u: self.draw(logits, u, temperature), x, noise, free,
                    joint=self.joint, progress=progress,
                )  # fmt: skip
            return jacobi(
                lambda x: self.logits(x, y),
                lambda logits, u: self.draw(logits, u, temperature),
                x,
                noise,
                free,
                progress,
            )[0]
        finally:
            self.train(training)

    def condition(self, y: Tensor | None) -> Tensor | None:
        """What the network takes beside the picture, ``[B, *]``: of the labels, if anything."""
        return None

    # -- small matters ------------------------------------------------------------------------------------------

    def scale(self, x: Tensor) -> Tensor:
        """Integer pixels to [-1, 1]."""
        return x.to(next(self.parameters()).dtype) * (2 / (self.config.levels - 1)) - 1

    def noise(self, n: int, *, key: Tensor, sample_offset: int = 0) -> Tensor:
        return random.uniform(key, (n, *self.noise_shape()), sample_offset=sample_offset)

    def labels(self, n: int, y: Tensor | int | None, device: torch.device, sample_offset: int = 0) -> Tensor | None:
        """Labels ``[n]``: those given, or the classes in turn; None for a model without classes."""
        return labels_of_samples(type(self).__name__, self.config.classes, n, y, device, sample_offset)

    def canvas(
        self, n: int, device: torch.device, given: Tensor | None, mask: Tensor | None, first_row: int
    ) -> tuple[Tensor, Tensor]:
        """The pixels to begin with, ``[n, C, H, W]``, and which of them are free, ``[H, W]``."""
        name, shape = type(self).__name__, tuple(self.config.shape)
        free = torch.ones(shape[1:], dtype=torch.bool, device=device)
        x = torch.zeros(n, *shape, dtype=self.pixel_dtype, device=device)
        if given is None:
            if mask is not None or first_row:
                raise ValueError(f"{name}: given must be pixels, where there is a mask or a first_row; got None.")
            return x, free
        if tuple(given.shape) not in (shape, (n, *shape)):
            raise ValueError(f"{name}: given must be {[n, *shape]} or {list(shape)}; got {list(given.shape)}.")
        if mask is None and not 0 < first_row <= shape[1]:
            raise ValueError(f"{name}: first_row must be in [1, {shape[1]}], where there is no mask; got {first_row}.")
        free[:first_row] = False
        if mask is not None:
            if mask.dtype != torch.bool or tuple(mask.shape) != shape[1:]:
                raise ValueError(f"{name}: mask must be bool {list(shape[1:])}; got {mask.dtype} {list(mask.shape)}.")
            free &= ~mask.to(device)
        check_levels(name, "given", given[..., ~free.to(given.device)], self.config.levels)
        return torch.where(free, x, given.to(x)), free

    @property
    def dtype(self) -> torch.dtype:
        """That of the parameters, at least float32: of probabilities, also under autocast."""
        return torch.promote_types(next(self.parameters()).dtype, torch.float32)

    @property
    def pixel_dtype(self) -> torch.dtype:
        return torch.uint8 if self.config.levels <= 256 else torch.int32

    def _check(self, x: Tensor, y: Tensor | None) -> Any:
        name, config = type(self).__name__, self.config
        if tuple(x.shape[1:]) != tuple(config.shape):
            raise ValueError(f"{name}: x must be {['B', *config.shape]}; got {list(x.shape)}.")
        if x.is_floating_point():
            raise TypeError(f"{name}: x must be integer pixels in [0, {config.levels}); got {x.dtype}.")
        if y is not None and (config.classes is None or tuple(y.shape) != (len(x),)):
            wanted = "None, since the model has no classes" if config.classes is None else f"labels [{len(x)}]"
            raise ValueError(f"{name}: y must be {wanted}; got {list(y.shape)}.")
        return config


def by_levels(x: Tensor, channels: int) -> Tensor:
    """Logits ``[B, C * levels, H, W]``, contiguous for each sub-pixel, as ``[B, levels, C, H, W]``."""
    return x.unflatten(1, (channels, -1)).transpose(1, 2)


def check_picture(model: str, config: Any) -> None:
    """Complains unless the config is one of integer pictures."""
    if len(config.shape) != 3:
        raise ValueError(f"{model}: shape must be (channels, height, width); got {config.shape}.")
    if config.levels is None or config.levels < 2:
        raise ValueError(f"{model}: levels must be 2 or more; got {config.levels}.")
