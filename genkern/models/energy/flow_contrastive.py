r"""Flow Contrastive Estimation of Energy-Based Models. Gao et al. 2020 (arXiv:1912.00589).

A flow :math:`q`, of which both samples and exact densities are at hand, is the noise of a noise-contrastive estimation:
an energy learns to tell data from samples of the flow by :math:`-E(x) - \log q(x)`, the logarithm of the ratio of the
two densities. At the optimum :math:`e^{-E}` is the density of the data, normalised, without a single Markov chain
(equation 6). The flow learns, too: to be told from data no more (equation 9), or by maximum likelihood as before.

With ``tilted`` the energy is that of the flow plus a network, as in Nijkamp et al. 2020 (arXiv:2006.06897).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import logsigmoid

from ... import random
from .._base import Batch, Loss, as_batch
from ..flows import glow, nsf
from ..flows._base import FlowModel
from ._base import column
from ._energy import BINS, CHAIN, START, EnergyModel, energy_network, vector_network

FLOWS: dict[str, Any] = {"glow": (glow.Glow, glow.Config), "nsf": (nsf.NSF, nsf.Config)}
UPDATES = ("adversarial", "likelihood", "none")


@dataclass(frozen=True)
class Config:
    shape: tuple[int, ...] = (3, 32, 32)
    levels: int | None = 256
    network: str = "residual"  # of the energy; or "conv", or "mlp" for vectors
    channels: tuple[int, ...] = (128, 256, 256)
    blocks: int = 2
    flow: str = "glow"  # or "nsf"
    flow_options: dict[str, Any] = field(default_factory=lambda: {"scales": 3, "steps": 32, "hidden": 512})
    flow_update: str = "adversarial"  # or "likelihood", or "none"
    tilted: bool = False  # the network corrects the flow, p = q e^-f: its task stays small while the flow moves


class FlowContrastive(EnergyModel):
    """Its space is that of the flow: dequantised pixels in [-0.5, 0.5], or vectors."""

    config_class = Config
    low, high = -0.5, 0.5

    def __init__(self, config: Config):
        super().__init__(config)
        if config.tilted and config.flow_update == "adversarial":
            raise ValueError("FlowContrastive: flow_update must be 'likelihood' or 'none' where tilted.")
        for name, value, known in (("flow", config.flow, FLOWS), ("flow_update", config.flow_update, UPDATES)):
            if value not in known:
                raise ValueError(f"FlowContrastive: {name} must be one of {tuple(known)}; got {value!r}.")
        model, flow_config = FLOWS[config.flow]
        options = {"alpha": None, **config.flow_options}
        self.flow: FlowModel = model(flow_config(shape=config.shape, levels=config.levels, **options))
        self.network: nn.Module
        if config.network == "mlp":
            self.network = vector_network(config.shape, tuple(config.channels))
        else:
            self.network = energy_network(config, 1, spectral=False, pool="sum")

    def energy_at(self, v: Tensor) -> Tensor:
        energy = self.output(self.network(v))
        return energy - self.flow_log_prob(v) if self.config.tilted else energy

    def output(self, raw: Tensor) -> Tensor:
        """Nats ``[B]``; a network that stands alone gives nats a dimension: one learning rate then suits all sizes."""
        return raw.squeeze(1) * (1 if self.config.tilted else math.prod(self.config.shape))

    def flow_log_prob(self, v: Tensor) -> Tensor:
        """Log-density of the flow at points of its space, in nats, ``[B]``."""
        z, log_det = self.flow.flow(v)
        return self.flow.prior.log_prob(z) + log_det

    def flow_sample(self, n: int, *, key: Tensor, sample_offset: int = 0) -> tuple[Tensor, Tensor]:
        """Points that the flow draws, with derivatives, and its log-density of them."""
        z = self.flow.prior.sample(n, key=key, sample_offset=sample_offset, dtype=self.dtype)
        v, log_det = self.flow.flow.inverse(z)
        return v, self.flow.prior.log_prob(z) - log_det

    def log_ratio(self, v: Tensor, log_q: Tensor) -> Tensor:
        """Of the energy's density and the flow's, ``[B]``."""
        return self.ratio_of(self.network(v), log_q)

    def ratio_of(self, raw: Tensor, log_q: Tensor) -> Tensor:
        return -self.output(raw) if self.config.tilted else -self.output(raw) - log_q

    def loss(self, batch: Batch | Tensor, *, key: Tensor | None = None, sample_offset: int = 0) -> Loss:
        """The classifier's loss (2 ln 2 where it is at a loss), and the flow's."""
        x, _ = as_batch(batch)
        key = random.key_from(device=x.device) if key is None else key
        data = self.scale(x, key=random.fold_in(key, BINS), sample_offset=sample_offset)
        log_q_data = self.flow_log_prob(data)
        update = self.config.flow_update if self.training else "none"
        with torch.set_grad_enabled(torch.is_grad_enabled() and update == "adversarial"):
            drawn, log_q_drawn = self.flow_sample(len(x), key=random.fold_in(key, START), sample_offset=sample_offset)
        whole = drawn.flatten(1).isfinite().all(1)  # the inverse of a flow in training may overflow: no sample then
        drawn = torch.where(column(whole, drawn), drawn, 0.0)
        log_q_drawn = torch.where(whole, log_q_drawn, 0.0)
        ratio = self.log_ratio(torch.cat([data, drawn.detach()]), torch.cat([log_q_data, log_q_drawn]).detach())
        of_data, of_drawn = ratio.chunk(2)
        estimation = classification(of_data, of_drawn, whole)
        total = estimation
        if update == "likelihood":
            total = total - log_q_data.mean() / data[0].numel()
        if update == "adversarial":  # the energy's weights stand still for the flow
            weights = {name: weight.detach() for name, weight in self.network.named_parameters()}
            raw = functional_call(self.network, weights, (torch.cat([data, drawn]),))
            ratio = self.ratio_of(raw, torch.cat([log_q_data, log_q_drawn]))
            of_data, of_drawn = ratio.chunk(2)
            total = total - classification(of_data, of_drawn, whole)
        terms = {"estimation": estimation, "flow_nats": -log_q_data.mean()}
        return Loss(total, {name: value.detach() for name, value in terms.items()})

    def initialize(self, batch: Batch | Tensor, *, key: Tensor | None = None, **options: Any) -> None:
        """Of the flow by a batch; and of the energy's constant, so that the two densities begin alike."""
        x = as_batch(batch).x
        self.flow.initialize(x, key=key)
        if self.config.tilted:
            return
        with torch.no_grad():
            data = self.scale(x)
            head = next(layer for layer in reversed(list(self.network.modules())) if isinstance(layer, nn.Linear))
            head.bias.data += self.log_ratio(data, self.flow_log_prob(data)).mean() / data[0].numel()

    @torch.no_grad()
    def sample(
        self, n: int, *, key: Tensor, temperature: float = 1.0, proposals: int = 16, sample_offset: int = 0
    ) -> Tensor:
        """``n`` samples: of some proposals of the flow for each, one, by how much likelier the energy makes it.

        Exact in the limit of many proposals (sampling-importance-resampling); one is a sample of the flow.
        """
        rows = n * proposals
        v, log_q = self.flow_sample(rows, key=random.fold_in(key, START), sample_offset=sample_offset * proposals)
        weights = (self.log_ratio(v, log_q) / temperature).nan_to_num(-torch.inf).reshape(n, proposals)
        u = random.uniform(random.fold_in(key, CHAIN), weights.shape, sample_offset=sample_offset)
        chosen = (weights - (-u.log()).log()).argmax(1)  # Gumbel's way to draw from a softmax
        return self.unscale(v.reshape(n, proposals, *v.shape[1:])[torch.arange(n, device=v.device), chosen])


def classification(data: Tensor, drawn: Tensor, whole: Tensor) -> Tensor:
    """Cross-entropy of telling data from (whole) samples of the flow, given the logits of "data" (equation 6)."""
    of_drawn = torch.where(whole, -logsigmoid(-drawn), 0.0).sum() / whole.sum().clamp(min=1)
    return -logsigmoid(data).mean() + of_drawn


PRESETS = {
    "flow-contrastive": Config(),
    "flow-contrastive-small": Config(
        (1, 8, 8),
        levels=17,
        network="conv",
        channels=(32, 64, 128),
        flow_options={"scales": 2, "steps": 6, "hidden": 64},
        flow_update="likelihood",
        tilted=True,
    ),
    "flow-contrastive-2d": Config(
        (2,),
        levels=None,
        network="mlp",
        channels=(128, 128),
        flow="nsf",
        flow_options={"steps": 4, "hidden": 64, "blocks": 1, "dropout": 0.0, "linear": False},
        flow_update="likelihood",
        tilted=True,
    ),
}
