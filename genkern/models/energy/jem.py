r"""Your Classifier is Secretly an Energy Based Model and You Should Treat it Like One. Grathwohl et al. 2020
(arXiv:1912.03263).

The logits of a classifier, :math:`f(x)[y]`, define :math:`p(y | x)` by their differences and, by
:math:`E(x) = -\log \sum_y e^{f(x)[y]}`, a density of :math:`x` as well. Both are trained at once: cross-entropy, and
contrastive divergence with the states of persistent chains (equations 4 to 8, algorithm 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ... import random
from .._base import Batch, Loss, as_batch
from ._energy import BINS, NOISE, PersistentEnergyModel, energy_network


@dataclass(frozen=True)
class Config:
    shape: tuple[int, ...] = (3, 32, 32)
    levels: int | None = 256
    classes: int = 10
    network: str = "residual"  # or "conv"
    channels: tuple[int, ...] = (160, 320, 640)  # a wide residual network 28-10, without normalisation
    blocks: int = 4
    data_noise: float = 0.03
    steps: int = 20  # of a chain
    step: float = 1.0
    noise: float = 0.01
    buffer: int = 10000
    reinit: float = 0.05
    weight: float = 1.0  # of log p(x) beside log p(y | x)
    regularization: float = 0.0  # of squared energies, as in IGEBM


class JEM(PersistentEnergyModel):
    config_class = Config
    low, high = -1.0, 1.0

    def __init__(self, config: Config):
        super().__init__(config)
        if config.classes < 2:
            raise ValueError(f"JEM: classes must be 2 or more; got {config.classes}.")
        self.network = energy_network(config, config.classes, spectral=False, pool="mean")
        self.replay = self.make_buffer()

    def energy_at(self, v: Tensor) -> Tensor:
        return -self.network(v).logsumexp(1)

    def logits(self, x: Tensor) -> Tensor:
        """Of the classes, ``[B, classes]``, for data as the data set holds them."""
        return self.network(self.scale(x))

    @torch.no_grad()
    def classify(self, x: Tensor) -> Tensor:
        """The likeliest class of each picture, ``[B]``."""
        return self.logits(x).argmax(1)

    def loss(self, batch: Batch | Tensor, *, key: Tensor | None = None, sample_offset: int = 0) -> Loss:
        r""":math:`-\log p(y | x) + w (E^+ - E^-)`; without labels the second term alone."""
        x, y = as_batch(batch)
        config = self.config
        key = random.key_from(device=x.device) if key is None else key
        clean = self.scale(x, key=random.fold_in(key, BINS), sample_offset=sample_offset)
        noise = random.normal(random.fold_in(key, NOISE), x.shape, dtype=clean.dtype, sample_offset=sample_offset)
        data, chain = clean + config.data_noise * noise, self.negatives(len(x), key=key, sample_offset=sample_offset)
        logits = self.network(torch.cat([data, chain]))
        low, high = (-part.logsumexp(1) for part in logits.split(len(x)))
        contrast = low.mean() - high.mean()
        total = config.weight * contrast + config.regularization * (low.square().mean() + high.square().mean())
        terms = {"energy_data": low.mean(), "energy_chain": high.mean(), "contrast": contrast}
        if y is not None:
            terms["cross_entropy"] = cross_entropy(logits[: len(x)], y.long())
            terms["accuracy"] = (logits[: len(x)].argmax(1) == y).to(total.dtype).mean()
            total = total + terms["cross_entropy"]
        return Loss(total, {name: value.detach() for name, value in terms.items()})


PRESETS = {
    "jem": Config(),
    "jem-mnist": Config(shape=(1, 28, 28), channels=(32, 64, 64), blocks=1),
    "jem-small": Config((1, 8, 8), levels=17, network="conv", channels=(32, 64, 128), buffer=2000, regularization=0.01),
}
