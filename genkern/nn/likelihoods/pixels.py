"""What a decoder says of integer pixels: exact probabilities, and pixels that follow from uniform noise."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from ... import random
from ...ops import (
    categorical_sample,
    discretized_mixture_logistics,
    sample_discretized_mixture_logistics,
)


class PixelLikelihood(nn.Module):
    """A distribution of pictures ``[B, C, H, W]`` of integers in ``[0, levels)``, given parameters from a decoder.

    Args:
        channels: :math:`C`, of the pictures.
        levels: values of a pixel.

    ``parameters_per_pixel`` is the number of channels that the decoder must give.
    """

    parameters_per_pixel: int
    noise_per_pixel: int  # uniform numbers that a draw of one pixel takes

    def __init__(self, channels: int, levels: int):
        super().__init__()
        if channels < 1 or levels < 2:
            raise ValueError(
                f"{type(self).__name__}: channels must be 1 or more, levels 2 or more; got {channels}, {levels}."
            )
        self.channels, self.levels = channels, levels
        self.noise_per_pixel = channels

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """Log-probability in nats, ``[B]``, float32 or wider, of integer pixels ``[B, C, H, W]``."""
        raise NotImplementedError(f"{type(self).__name__} does not define log_prob.")

    def draw(self, params: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """Pixels from parameters and uniform noise, ``[B, noise_per_pixel, H, W]``; temperature 0: the likeliest."""
        raise NotImplementedError(f"{type(self).__name__} does not define draw.")

    def sample(self, params: Tensor, *, key: Tensor, temperature: float = 1.0, sample_offset: int = 0) -> Tensor:
        shape = (len(params), self.noise_per_pixel, *params.shape[2:])
        return self.draw(params, random.uniform(key, shape, sample_offset=sample_offset), temperature)

    @property
    def pixel_dtype(self) -> torch.dtype:
        return torch.uint8 if self.levels <= 256 else torch.int32

    def extra_repr(self) -> str:
        return f"channels={self.channels}, levels={self.levels}"


class CategoricalPixels(PixelLikelihood):
    r"""A softmax over the levels of every sub-pixel: ``L`` parameters each, those of one sub-pixel in a row.

    Args:
        channels: of the pictures.
        levels: ``L``, values of a pixel.

    >>> head = CategoricalPixels(1, levels=17)
    >>> head.log_prob(torch.zeros(2, 17, 8, 8), torch.zeros(2, 1, 8, 8, dtype=torch.uint8)) / -64  # ln 17 a pixel
    tensor([2.8332, 2.8332])
    """

    def __init__(self, channels: int, levels: int):
        super().__init__(channels, levels)
        self.parameters_per_pixel = channels * levels

    def _logits(self, params: Tensor) -> Tensor:
        return params.unflatten(1, (self.channels, self.levels)).transpose(1, 2)  # [B, levels, C, H, W]

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        table = self._logits(params.to(torch.promote_types(params.dtype, torch.float32))).log_softmax(1)
        return table.gather(1, x.long().unsqueeze(1)).flatten(1).sum(1)

    def draw(self, params: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
        return categorical_sample(self._logits(params), noise=noise, temperature=temperature)[0].to(self.pixel_dtype)


class BernoulliPixels(PixelLikelihood):
    r"""A logit for every sub-pixel of binary pictures: :math:`\log p = \sum \log \sigma(\pm l)`.

    Args:
        channels: of the pictures.
        levels: 2.

    >>> head = BernoulliPixels(1)
    >>> head.log_prob(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2, dtype=torch.uint8))  # 4 ln 1/2
    tensor([-2.7726])
    """

    def __init__(self, channels: int, levels: int = 2):
        super().__init__(channels, levels)
        if levels != 2:
            raise ValueError(f"BernoulliPixels: levels must be 2; got {levels}.")
        self.parameters_per_pixel = channels

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        logits = params.to(torch.promote_types(params.dtype, torch.float32))
        return logsigmoid(torch.where(x.bool(), logits, -logits)).flatten(1).sum(1)

    def draw(self, params: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
        if temperature == 0:
            return (params > 0).to(self.pixel_dtype)
        return (noise < torch.sigmoid(params.to(noise.dtype) / temperature)).to(self.pixel_dtype)


class DiscretizedLogistic(PixelLikelihood):
    r"""A logistic for every sub-pixel, integrated over its level: means of all channels, then their log-scales.

    .. math:: p(x) = \sigma\big(e^{-s}(v + \tfrac\Delta2 - \mu)\big) - \sigma\big(e^{-s}(v - \tfrac\Delta2 - \mu)\big)

    for values in [-1, 1]; the end levels hold the tails. A mixture of one: `genkern.ops.discretized_mixture_logistics`.
    Kingma et al. 2016 (arXiv:1606.04934), appendix C.

    >>> head = DiscretizedLogistic(3, levels=256)
    >>> head.log_prob(torch.zeros(2, 6, 4, 4), torch.full((2, 3, 4, 4), 128)).shape
    torch.Size([2])
    """

    def __init__(self, channels: int, levels: int):
        super().__init__(channels, levels)
        self.parameters_per_pixel = 2 * channels
        self.noise_per_pixel = channels

    def _alone(self, params: Tensor) -> Tensor:
        """Each channel as a picture of its own, with a mixture of one: ``[B * C, 3, H, W]``."""
        mean, log_scale = (part.flatten(0, 1) for part in params.chunk(2, dim=1))
        return torch.stack([torch.zeros_like(mean), mean, log_scale], dim=1)

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        alone = x.flatten(0, 1).unsqueeze(1)
        nats = discretized_mixture_logistics(self._alone(params), alone, levels=self.levels, reduction="sum")
        return -nats.unflatten(0, (-1, self.channels)).sum(1)

    def draw(self, params: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
        alone = noise.flatten(0, 1).unsqueeze(1)
        pixels = sample_discretized_mixture_logistics(
            self._alone(params), channels=1, noise=torch.cat([torch.full_like(alone, 0.5), alone], dim=1),
            levels=self.levels, temperature=temperature, dtype=self.pixel_dtype,
        )  # fmt: skip
        return pixels.unflatten(0, (-1, self.channels)).squeeze(2)


class DiscretizedMixture(PixelLikelihood):
    r"""A mixture of ``components`` logistics for grey pictures or RGB, whose channels follow each other.

    See `genkern.ops.discretized_mixture_logistics` for the parameters: ``3K`` or ``10K``.

    >>> DiscretizedMixture(3, levels=256, components=10).parameters_per_pixel
    100
    """

    def __init__(self, channels: int, levels: int, components: int = 10):
        super().__init__(channels, levels)
        if channels not in (1, 3) or components < 1:
            raise ValueError(
                f"DiscretizedMixture: channels must be 1 or 3, components 1 or more; got {channels}, {components}."
            )
        self.parameters_per_pixel = (3 if channels == 1 else 10) * components
        self.noise_per_pixel = channels + 1

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        return -discretized_mixture_logistics(params, x, levels=self.levels, reduction="sum")

    def draw(self, params: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
        return sample_discretized_mixture_logistics(
            params, channels=self.channels, noise=noise, levels=self.levels, temperature=temperature,
            dtype=self.pixel_dtype,
        )  # fmt: skip


HEADS: dict[str, type[PixelLikelihood]] = {
    "categorical": CategoricalPixels,
    "bernoulli": BernoulliPixels,
    "logistic": DiscretizedLogistic,
    "mixture": DiscretizedMixture,
}


def pixel_likelihood(name: str, channels: int, levels: int) -> PixelLikelihood:
    """A distribution of pixels by name.

    Args:
        name: ``"categorical"``, ``"bernoulli"``, ``"logistic"`` or ``"mixture"``.
        channels: of the pictures.
        levels: values of a pixel.

    Raises:
        ValueError: for another name, or channels or levels that the distribution does not have.

    >>> pixel_likelihood("logistic", 1, 256)
    DiscretizedLogistic(channels=1, levels=256)
    """
    if name not in HEADS:
        raise ValueError(f"pixel_likelihood: name must be one of {sorted(HEADS)}; got {name!r}.")
    return HEADS[name](channels, levels)
