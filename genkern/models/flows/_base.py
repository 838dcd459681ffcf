"""What all flow models share: dequantisation, a prior over latents, and what follows from the change of variables."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from ... import ops, random
from ...nn import ClassConditionalGaussian, Flow, Prior, StandardNormal, VariationalDequantization
from ...nn.flows.continuous import positions_only
from ...nn.flows.priors import draw_labels
from ...nn.flows.replay import noise_of
from .._base import Batch, GenerativeModel, Loss, as_batch


class FlowModel(GenerativeModel):
    r"""A flow ``z = f(v)`` with a prior over ``z``, where ``v`` is the data, dequantised if it is discrete.

    .. math:: \log p(x) = \log p_Z(f(v)) + \log\lvert\det \partial f / \partial v\rvert
              + \log\lvert\det \partial v / \partial (x + u)\rvert, \qquad u \sim U[0, 1)

    which is a lower bound in expectation of the probability of integer pixels. A model sets ``self.flow``, and
    ``self.prior`` where that is other than a standard normal of the data's shape. Its config holds ``shape``,
    ``levels`` and ``alpha`` (of the logit transform; None: pixels are scaled to [-0.5, 0.5]), and any of

    - ``classes``: the model is conditional on labels; its prior is a Gaussian for each class;
    - ``context``: how many numbers its networks are given, those of a learned embedding of the label where there are
      classes, else those that the caller hands over as ``context=``, ``[B, context]``;
    - ``dequantization``: ``"uniform"`` or ``"variational"``.

    Every method takes the labels as ``y=``: int64 ``[B]``, or one int for all. Without them a model with classes
    has the even mixture over classes for its density, exactly, and samples of labels drawn evenly.
    """

    flow: Flow
    prior: Prior

    def __init__(self, config: Any):
        super().__init__(config)
        shape = tuple(config.shape)
        self.classes: int | None = getattr(config, "classes", None)
        self.context_size: int | None = getattr(config, "context", None)
        self.prior = gaussian_base(shape, self.classes)
        self.embedding = self.noise = None
        if self.classes is not None and self.context_size:
            self.embedding = nn.Embedding(self.classes, self.context_size)
        dequantization = getattr(config, "dequantization", "uniform")
        if dequantization not in ("uniform", "variational"):
            wanted = "dequantization must be 'uniform' or 'variational'"
            raise ValueError(f"{type(self).__name__}: {wanted}; got {dequantization!r}.")
        if dequantization == "variational" and config.levels is not None:
            self.noise = VariationalDequantization.of_pictures(shape, config.levels)

    # -- data and latents ---------------------------------------------------------------------------------------

    def encode(
        self,
        x: Tensor,
        *,
        y: Tensor | int | None = None,
        context: Tensor | None = None,
        key: Tensor | None = None,
        sample_offset: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """Latents ``z`` of the data and the log-determinant, ``[B]``, of the whole way from ``x`` to ``z``."""
        context = self._context(self._labels(y, x), context)
        v, log_det = self.dequantize(x, key=key, sample_offset=sample_offset)
        with noise_of(self.flow, key, sample_offset):
            z, term = self.flow(v, context)
        return z, log_det + term

    def decode(self, z: Tensor, *, y: Tensor | int | None = None, context: Tensor | None = None) -> Tensor:
        """The data whose latents are ``z``."""
        context = self._context(self._labels(y, z), context)
        with positions_only(self.flow):
            return self.quantize(self.flow.inverse(z, context)[0])

    def dequantize(self, x: Tensor, *, key: Tensor | None = None, sample_offset: int = 0) -> tuple[Tensor, Tensor]:
        """Continuous values of the data, and the log-determinant (less the log-density of learned noise), ``[B]``."""
        config = self._check(x)
        if config.levels is None:
            return x.to(self.dtype), torch.zeros(len(x), dtype=self.dtype, device=x.device)
        options: dict[str, Any] = {"alpha": config.alpha, "dtype": self.dtype}
        if self.noise is None:
            v, log_det = ops.dequantize(x, config.levels, key=key, sample_offset=sample_offset, **options)
        else:
            u, log_q = self.noise(x, key=key, sample_offset=sample_offset, dtype=self.dtype)
            v, log_det = ops.dequantize(x, config.levels, noise=u, **options)
            log_det = log_det - log_q
        return (v - 0.5 if config.alpha is None else v), log_det

    def quantize(self, v: Tensor) -> Tensor:
        config = self.config
        if config.levels is None:
            return v
        return ops.quantize(v + 0.5 if config.alpha is None else v, config.levels, alpha=config.alpha)

    def _log_det_of_dequantization(self, v: Tensor) -> Tensor:
        """That of `dequantize`, for given ``v``."""
        config, flat = self.config, v.flatten(1)
        if config.levels is None:
            return torch.zeros_like(flat[:, 0])
        log_det = torch.full_like(flat[:, 0], -flat.shape[1] * math.log(config.levels))
        if config.alpha is not None:
            log_det = log_det + (math.log1p(-2 * config.alpha) - logsigmoid(flat) - logsigmoid(-flat)).sum(1)
        if self.noise is not None:
            x = self.quantize(v)
            unit = v + 0.5 if config.alpha is None else ops.logit_transform(v, config.alpha, inverse=True)[0]
            eps = torch.finfo(v.dtype).eps
            u = (unit * config.levels - x).clamp(eps, 1 - eps)  # inside the level to which a sample is rounded
            log_det = log_det - self.noise.log_prob(u, x)
        return log_det

    # -- conditions ---------------------------------------------------------------------------------------------

    def _labels(self, y: Tensor | int | None, x: Tensor | int, device: torch.device | None = None) -> Tensor | None:
        """Labels ``[B]`` for a batch, or for so many samples."""
        n, device = (x, device) if isinstance(x, int) else (len(x), x.device)
        if y is None:
            return None
        name = type(self).__name__
        if self.classes is None:
            raise ValueError(f"{name}: y was given, but the model has no classes.")
        if isinstance(y, int):
            if not 0 <= y < self.classes:
                raise ValueError(f"{name}: y must be in [0, {self.classes}); got {y}.")
            return torch.full((n,), y, device=device)
        if y.shape != (n,) or y.dtype != torch.int64:
            raise ValueError(f"{name}: y must be int64 [{n}]; got {y.dtype} {list(y.shape)}.")
        return y

    def _context(self, labels: Tensor | None, context: Tensor | None) -> Tensor | None:
        """What the networks are given."""
        name = type(self).__name__
        if self.embedding is not None:
            if context is not None:
                raise ValueError(f"{name}: context must be None where it is the embedding of the labels.")
            if labels is None:
                raise ValueError(f"{name}: y must be given, for the networks see them.")
            return self.embedding(labels).to(self.dtype)
        if (context is None) != (not self.context_size):
            wanted = f"[B, {self.context_size}]" if self.context_size else "None: the config has no context"
            raise ValueError(f"{name}: context must be {wanted}; got {None if context is None else [*context.shape]}.")
        return context

    # -- the protocol -------------------------------------------------------------------------------------------

    def log_prob(
        self,
        x: Tensor,
        *,
        y: Tensor | int | None = None,
        context: Tensor | None = None,
        key: Tensor | None = None,
        sample_offset: int = 0,
    ) -> Tensor:
        """Log-likelihood in nats, ``[B]``; of integer pixels with one draw of the dequantisation noise.

        Of a model with classes, given the labels; without them that of the even mixture over classes, which takes
        a pass for each class where the networks see the label.
        """
        if self.embedding is not None and y is None:
            if key is None:
                key = random.key_from(device=x.device)  # the same noise for every class
            return self.log_prob_of_each_class(x, key=key, sample_offset=sample_offset).logsumexp(1) - math.log(
                self.embedding.num_embeddings
            )
        z, log_det = self.encode(x, y=y, context=context, key=key, sample_offset=sample_offset)
        return self.prior.log_prob(z, self._labels(y, x)) + log_det

    def log_prob_of_each_class(self, x: Tensor, *, key: Tensor | None = None, sample_offset: int = 0) -> Tensor:
        """``log p(x | c)`` in nats for every class, ``[B, classes]``: what classifies ``x`` by Bayes' rule."""
        if self.classes is None:
            raise ValueError(f"{type(self).__name__}: the model has no classes.")
        if key is None:
            key = random.key_from(device=x.device)
        if self.embedding is None and isinstance(self.prior, ClassConditionalGaussian):
            z, log_det = self.encode(x, key=key, sample_offset=sample_offset)
            return self.prior.log_prob_of_each(z) + log_det[:, None]
        each = (self.log_prob(x, y=c, key=key, sample_offset=sample_offset) for c in range(self.classes))
        return torch.stack(list(each), dim=1)

    def importance_log_prob(
        self, x: Tensor, samples: int, *, y: Tensor | int | None = None, context: Tensor | None = None, key: Tensor
    ) -> Tensor:
        r"""A tighter bound of the log-probability of integer pixels, ``[B]``, from several draws of the noise.

        .. math:: \log p(x) \ge \mathbb{E}\Big[\log \frac{1}{K} \sum_k \frac{p(x + u_k)}{q(u_k \mid x)}\Big]

        Burda et al. 2016 (arXiv:1509.00519), eq. 8.
        """
        if samples < 1:
            raise ValueError(f"{type(self).__name__}: samples must be at least 1; got {samples}.")
        keys = (random.fold_in(key, k) for k in range(samples))
        draws = [self.log_prob(x, y=y, context=context, key=k) for k in keys]
        return torch.stack(draws).logsumexp(0) - math.log(samples)

    def loss(
        self,
        batch: Batch | Tensor,
        *,
        context: Tensor | None = None,
        key: Tensor | None = None,
        sample_offset: int = 0,
    ) -> Loss:
        """Mean negative log-likelihood: bits per dimension for integer pixels, nats for continuous data.

        The batch's labels count where the model has classes.
        """
        x, y = as_batch(batch)
        y = None if self.classes is None else y
        log_prob = self.log_prob(x, y=y, context=context, key=key, sample_offset=sample_offset)
        nats = -log_prob.mean()
        bits_per_dim = nats / (x[0].numel() * math.log(2))
        total = nats if self.config.levels is None else bits_per_dim
        return Loss(total, {"nats": nats.detach(), "bits_per_dim": bits_per_dim.detach()})

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        key: Tensor,
        temperature: float = 1.0,
        sample_offset: int = 0,
        y: Tensor | int | None = None,
        context: Tensor | None = None,
    ) -> Tensor:
        """``n`` samples; a temperature below 1 shrinks the latents towards the mode (of their class).

        Of the given labels; without them a model with classes draws those evenly, as `draw_labels` does.
        """
        labels = self._labels(y, n, key.device)
        if labels is None and self.classes is not None:
            labels = draw_labels(self.classes, n, key=key, sample_offset=sample_offset)
        z = self._latents(n, key, temperature, labels, sample_offset)
        return self.decode(z, y=labels, context=context)

    @torch.no_grad()
    def sample_and_log_prob(
        self,
        n: int,
        *,
        key: Tensor,
        temperature: float = 1.0,
        y: Tensor | int | None = None,
        context: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """``n`` samples and the model's log-likelihood of each (at temperature 1), from one pass.

        For integer pixels it is that of the continuous value before rounding: a draw of `log_prob` at the sample.
        Where the model has classes, it is that given the label.
        """
        labels = self._labels(y, n, key.device)
        if labels is None and self.classes is not None:
            labels = draw_labels(self.classes, n, key=key)
        z = self._latents(n, key, temperature, labels)
        with noise_of(self.flow, key):
            v, log_det = self.flow.inverse(z, self._context(labels, context))
        return self.quantize(v), self.prior.log_prob(z, labels) - log_det + self._log_det_of_dequantization(v)

    @torch.no_grad()
    def reconstruct(
        self,
        x: Tensor,
        *,
        y: Tensor | int | None = None,
        context: Tensor | None = None,
        key: Tensor | None = None,
    ) -> Tensor:
        """The data again, from their latents: the same up to rounding."""
        y = self._any_label(y)
        z, _ = self.encode(x, y=y, context=context, key=key)
        return self.decode(z, y=y, context=context)

    @torch.no_grad()
    def reconstruction_error(
        self,
        x: Tensor,
        *,
        y: Tensor | int | None = None,
        context: Tensor | None = None,
        key: Tensor | None = None,
    ) -> Tensor:
        """Largest absolute difference between the (dequantised) data and what their latents give back."""
        v, _ = self.dequantize(x, key=key)
        context = self._context(self._labels(self._any_label(y), x), context)
        with positions_only(self.flow):
            return (self.flow.inverse(self.flow(v, context)[0], context)[0] - v).abs().max()

    @torch.no_grad()
    def initialize(self, batch: Batch | Tensor, *, context: Tensor | None = None, key: Tensor | None = None) -> None:
        """Sets the activation normalisations from a batch, where that is still to be done."""
        x, y = as_batch(batch)
        y = None if self.classes is None else y
        context = self._context(self._labels(self._any_label(y), x), context)
        self.flow.initialize(self.dequantize(x, key=key)[0], context)

    # -- small matters ------------------------------------------------------------------------------------------

    def _latents(
        self, n: int, key: Tensor, temperature: float, labels: Tensor | None, sample_offset: int = 0
    ) -> Tensor:
        if not temperature >= 0:
            raise ValueError(f"{type(self).__name__}: temperature must not be negative; got {temperature}.")
        return self.prior.sample(
            n, key=key, sample_offset=sample_offset, context=labels, temperature=temperature, dtype=self.dtype
        )

    def _any_label(self, y: Tensor | int | None) -> Tensor | int | None:
        """There and back the same label must be seen, whichever that is."""
        return 0 if y is None and self.embedding is not None else y

    @property
    def dtype(self) -> torch.dtype:
        """That of the parameters, at least float32: the state of the flow has it, also under autocast."""
        return torch.promote_types(next(self.parameters()).dtype, torch.float32)

    def _check(self, x: Tensor) -> Any:
        if tuple(x.shape[1:]) != tuple(self.config.shape):
            wanted = ["B", *self.config.shape]
            raise ValueError(f"{type(self).__name__}: x must be {wanted}; got {list(x.shape)}.")
        return self.config


def gaussian_base(shape: tuple[int, ...], classes: int | None) -> Prior:
    """A standard normal of the latents, or a Gaussian for each class: where latents are not of the data's shape."""
    return StandardNormal(shape) if classes is None else ClassConditionalGaussian(shape, classes)


def check_halvings(model: str, shape: tuple[int, ...], scales: int) -> None:
    """Complains unless a picture can be squeezed once for each scale."""
    if len(shape) != 3:
        raise ValueError(f"{model}: shape must be (channels, height, width); got {shape}.")
    possible = 0
    while all(size % 2 ** (possible + 1) == 0 for size in shape[1:]):
        possible += 1
    if not 1 <= scales <= possible:
        raise ValueError(
            f"{model}: scales={scales} need a height and width that halve as many times; {shape} halves {possible}"
            f" time{'' if possible == 1 else 's'}."
        )
