"""What all diffusion models share: data in [-1, 1], a denoising network, labels, guidance, the flow of probability."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ... import ops, random
from ...nn import CNF, ResidualMLP, UNet
from ...nn.flows.replay import noise_of
from .._base import GenerativeModel, labels_of_samples

TIME, NOISE, LABELS, START, STEPS, PROBES = range(6)  # folded into a key: what it draws


@dataclass(frozen=True)
class DenoiserConfig:
    """The data and the network, which every config of the family begins with."""

    shape: tuple[int, ...] = (3, 32, 32)
    levels: int | None = 256
    classes: int | None = None  # of p(x | class); None: p(x)
    label_dropout: float = 0.1  # how often training hides the label, so that the network knows p(x) too
    data_scale: float = 1.0  # vectors are divided by it; pixels always go to [-1, 1]
    network: str = "unet"  # or "mlp"
    channels: int = 128  # of the U-Net's first resolution
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    blocks: int = 2  # residual blocks of a resolution
    attention: tuple[int, ...] = (16,)  # the resolutions that have it
    heads: int = 1
    dropout: float = 0.1
    scale_shift: bool = False  # the time scales normalised features, where it is else added
    resample: str = "conv"  # or "block"
    skip_rescale: bool = False
    embedding: str = "positional"  # of the time; or "fourier"
    hidden: int = 256  # units of the MLP
    layers: int = 3  # its residual blocks


def denoiser(
    config: DenoiserConfig, *, shape: tuple[int, ...] | None = None, out_channels: int | None = None
) -> nn.Module:
    """The network of a config: ``network(x, t, y)``."""
    shape = tuple(shape or config.shape)
    if config.network == "mlp":
        return ResidualMLP(
            shape, out_channels=out_channels, hidden=config.hidden, layers=config.layers, dropout=config.dropout,
            classes=config.classes, embedding=config.embedding,
        )  # fmt: skip
    if config.network != "unet":
        raise ValueError(f"network must be 'unet' or 'mlp'; got {config.network!r}.")
    return UNet(
        shape, out_channels=out_channels, channels=config.channels, multipliers=tuple(config.multipliers),
        blocks=config.blocks, attention=tuple(config.attention), heads=config.heads, dropout=config.dropout,
        classes=config.classes, scale_shift=config.scale_shift, resample=config.resample,
        skip_rescale=config.skip_rescale, embedding=config.embedding,
    )  # fmt: skip


class DiffusionModel(GenerativeModel):
    r"""Data under growing noise, :math:`\bar x = x_0 + \sigma \epsilon`, and a network that knows the noise in them.

    Every model of the family, whatever it scales its noisy data by and whatever its network predicts, defines
    `noise_at`: the noise to expect in :math:`\bar x`. From it follow the flow of probability,
    :math:`d\bar x / d\sigma = \hat\epsilon(\bar x, \sigma)`, and with it a likelihood (Song et al. 2021,
    arXiv:2011.13456, section 4.3).

    A model with classes is trained with the label hidden at times, so it has both :math:`\hat\epsilon(x, y)` and
    :math:`\hat\epsilon(x)`; ``guidance`` :math:`w` samples with :math:`\hat\epsilon(x) + w\,(\hat\epsilon(x, y) -
    \hat\epsilon(x))` (Ho & Salimans 2022, arXiv:2207.12598; there ``1 + w``). A likelihood without labels is that of
    the network which sees none.
    """

    config: Any
    network: Any  # called as network(x, t, y)

    # -- what a model defines -----------------------------------------------------------------------------------

    def noise_at(self, x: Tensor, sigma: Tensor, y: Tensor | None = None) -> Tensor:
        r"""The noise :math:`\hat\epsilon` to expect in :math:`\bar x = x_0 + \sigma \epsilon`, like ``x``.

        Args:
            x: ``[B, *shape]``.
            sigma: noise levels, ``[B]``, within `sigma_range`.
            y: labels ``[B]``; None: unknown.
        """
        raise NotImplementedError(f"{type(self).__name__} has no noise_at.")

    def sigma_range(self) -> tuple[float, float]:
        """The smallest and the largest noise level that the network is trained for."""
        raise NotImplementedError(f"{type(self).__name__} has no sigma_range.")

    # -- data ---------------------------------------------------------------------------------------------------

    def scale(self, x: Tensor) -> Tensor:
        """Integer pixels to [-1, 1]; vectors divided by their scale."""
        config = self._check(x)
        if config.levels is None:
            return x.to(self.dtype) / config.data_scale
        return x.to(self.dtype) * (2 / (config.levels - 1)) - 1

    def unscale(self, v: Tensor) -> Tensor:
        """The nearest integer pixels, or vectors as the data set holds them."""
        config = self.config
        if config.levels is None:
            return v * config.data_scale
        pixels = ((v + 1) * ((config.levels - 1) / 2)).round().clamp(0, config.levels - 1)
        return pixels.to(torch.uint8 if config.levels <= 256 else torch.int32)

    # -- labels -------------------------------------------------------------------------------------------------

    def training_labels(self, y: Tensor | None, n: int, key: Tensor, sample_offset: int = 0) -> Tensor | None:
        """Labels ``[n]`` of which some are hidden; None where the model has no classes."""
        classes = self.config.classes
        if classes is None or y is None:
            return None
        draws = random.uniform(random.fold_in(key, LABELS), (n, 1), sample_offset=sample_offset)[:, 0]
        return torch.where(draws < self.config.label_dropout, classes, y.long())

    def labels(self, n: int, y: Tensor | int | None, device: torch.device, sample_offset: int = 0) -> Tensor | None:
        """Labels ``[n]`` of samples: those given, or the classes in turn; None for a model without classes."""
        return labels_of_samples(type(self).__name__, self.config.classes, n, y, device, sample_offset)

    def guided(self, x: Tensor, t: Tensor, y: Tensor | None, guidance: float) -> tuple[Tensor, Tensor | None]:
        """The network's output and, where guidance asks for it, its output without labels, in one call."""
        if y is None or guidance == 1:
            return self.network(x, t, y), None
        both = torch.cat([y, torch.full_like(y, self.config.classes)])
        conditional, unconditional = self.network(x.repeat(2, *[1] * (x.dim() - 1)), t.repeat(2), both).chunk(2)
        return conditional, unconditional

    # -- the flow of probability --------------------------------------------------------------------------------

    def ode_log_prob(
        self,
        x: Tensor,
        y: Tensor | None = None,
        *,
        key: Tensor | None = None,
        sample_offset: int = 0,
        steps: int = 16,
        sigma_min: float | None = None,
        divergence: str = "hutchinson",
        solver: str = "rk4",
    ) -> Tensor:
        r"""Log-likelihood in nats, ``[B]``, by the flow of probability from data to noise: a `CNF`.

        .. math:: \log p(\bar x_{\sigma_0}) = \log \mathcal{N}(\bar x_{\sigma_1}; 0, 1 + \sigma_1^2)
                  + \int \operatorname{tr} \frac{\partial \hat\epsilon}{\partial \bar x}\, d\sigma

        Vectors are taken for data of the smallest noise level. Integer pixels are given noise of that level, which
        bounds their probability as a variational dequantisation does, in expectation over the noise:
        :math:`\log P(x) \ge \log p(\bar x) - \log q(\bar x | x) + \log P(x | \bar x)`, the last a Gaussian around
        the denoised picture, integrated over the level's bin: the decoder of the discrete-time bound.

        Args:
            x: as the data set holds them, ``[B, *shape]``.
            y: labels ``[B]``; None: unknown.
            key: of the dequantisation and of the divergence's estimate.
            steps: of the solver, evenly in :math:`\ln \sigma`, where it has a fixed step.
            sigma_min: where the flow begins; None: the smallest level of `sigma_range`.
            divergence: ``"hutchinson"``, unbiased, or ``"exact"``, with a pass for each dimension.
            solver: see `CNF`; such as ``"dopri5"``, adaptive.
        """
        key = random.key_from(device=x.device) if key is None else key
        v, (low, high) = self.scale(x), self.sigma_range()
        low = low if sigma_min is None else sigma_min
        if not 0 < low < high:
            raise ValueError(f"{type(self).__name__}: sigma_min must be in (0, {high}); got {low}.")
        dimensions, correction = v[0].numel(), torch.zeros(len(v), dtype=v.dtype, device=v.device)
        if self.config.levels is None:
            correction = correction - dimensions * math.log(self.config.data_scale)
        else:
            noise = random.normal(random.fold_in(key, NOISE), v.shape, dtype=v.dtype, sample_offset=sample_offset)
            noisy = v + low * noise
            log_q = gaussian(noise, 1.0) - dimensions * math.log(low)
            level = torch.full((len(v),), low, dtype=v.dtype, device=v.device)
            with torch.no_grad():
                mean = noisy - low * self.noise_at(noisy, level, y)
            log_std = torch.full_like(mean, math.log(low))
            correction = correction - log_q + self.decoder_log_prob(v, mean, log_std)
            v = noisy
        flow = CNF(ProbabilityFlow(self, low, high), divergence=divergence, solver=solver, steps=steps, adjoint=False)
        with torch.no_grad(), noise_of(flow, random.fold_in(key, PROBES), sample_offset):
            latent, log_det = flow(v, y)
        return gaussian(latent, math.sqrt(1 + high**2)) + log_det + correction

    def decoder_log_prob(self, x0: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
        """Log-probability of scaled data in nats, ``[B]``: of vectors a density, of pixels that of their bin."""
        if self.config.levels is None:
            return ops.gaussian_log_prob(x0, mean, log_std)
        return ops.discretized_gaussian(x0, mean, log_std, levels=self.config.levels)

    # -- small matters ------------------------------------------------------------------------------------------

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def _check(self, x: Tensor) -> Any:
        config, name = self.config, type(self).__name__
        if tuple(x.shape[1:]) != tuple(config.shape):
            raise ValueError(f"{name}: x must be {['B', *config.shape]}; got {list(x.shape)}.")
        if x.is_floating_point() == (config.levels is not None):
            wanted = "floating-point vectors" if config.levels is None else f"integer pixels in [0, {config.levels})"
            raise TypeError(f"{name}: x must be {wanted}; got {x.dtype}.")
        return config


class ProbabilityFlow(nn.Module):
    r"""The velocity of a `CNF` from data (time 0) to noise (time 1), whose noise level grows geometrically.

    .. math:: \sigma(s) = \sigma_0 (\sigma_1 / \sigma_0)^s, \qquad
              \frac{d\bar x}{ds} = \sigma \ln(\sigma_1 / \sigma_0)\, \hat\epsilon(\bar x, \sigma)
    """

    def __init__(self, model: DiffusionModel, low: float, high: float):
        super().__init__()
        self.model, self.low, self.ratio = model, low, math.log(high / low)

    def forward(self, time: Tensor, x: Tensor, y: Tensor | None = None) -> Tensor:
        sigma = self.low * torch.exp(self.ratio * time)
        return self.ratio * sigma * self.model.noise_at(x, sigma.expand(len(x)), y)


def gaussian(x: Tensor, std: float) -> Tensor:
    """Log-density of each sample under independent Gaussians of mean 0, in nats, ``[B]``."""
    return ops.gaussian_log_prob(x / std) - x[0].numel() * math.log(std)


def column(values: Tensor, like: Tensor) -> Tensor:
    """``[B]`` with as many dimensions as ``[B, *]``."""
    return values.reshape(-1, *[1] * (like.dim() - 1))
