"""Composition of flows, and what a composition stores for its backward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from . import invert
from .flow import Flow, Inverses, hand_out, no_volume
from .matrices import InverseCache
from .matrices import log_abs_dets as one_call
from .replay import evaluating, frozen_statistics, updates_statistics

POLICIES = ("store", "checkpoint", "invert")
Run = tuple[list[Flow], list[dict[str, Any]]]


class FlowSequential(Flow):
    r"""Flows one after the other; the log-determinants add up.

    Args:
        layers: flows, in the order in which data meets them.
        policy: what is kept for the backward pass.

            - ``"store"``: all that autograd wants. The fastest.
            - ``"checkpoint"``: the input of each layer, which is run again.
            - ``"invert"``: the state at every ``every``-th layer; the states between are rebuilt by inverting the
              layers, in the precision of the state, and each layer is run again. Activation memory is that of one
              layer and the kept states. First derivatives only.
        every: how many layers share a kept state under ``"invert"``. Inverses amplify rounding errors, so that
            `reconstruction_error` grows with it.

    A nested container is one layer to the outer one; with a policy of its own it looks after its own memory. Layers
    that cannot be inverted in training (`FlowBatchNorm`) are run as under ``"checkpoint"``, and so are all layers in
    a compiled region. The policies are about `forward`; `inverse` stores.

    All free 1x1 convolutions inside take their log-determinants from one call per forward of the outermost container,
    and their inverses from one call per inverse.

    >>> from genkern.nn import ActNorm, InvertibleConv1x1
    >>> flow = FlowSequential(ActNorm(4), InvertibleConv1x1(4), policy="invert")
    >>> z, log_det = flow(torch.randn(8, 4, 2, 2))
    """

    def __init__(self, *layers: Flow, policy: str = "store", every: int = 8):
        super().__init__()
        if policy not in POLICIES:
            raise ValueError(f"FlowSequential: policy must be one of {POLICIES}; got {policy!r}.")
        if every < 1:
            raise ValueError(f"FlowSequential: every must be at least 1; got {every}.")
        for layer in layers:
            if not isinstance(layer, Flow):
                raise TypeError(f"FlowSequential: layers must be flows; got {type(layer).__name__}.")
        self.policy, self.every = policy, every
        self.layers = nn.ModuleList(layers)
        self._inverses = InverseCache()

    def forward(
        self, x: Tensor, context: Tensor | None = None, *, log_abs_dets: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        if log_abs_dets is None:  # the outermost container
            log_abs_dets = one_call(self.free_weights())
        policy = self.policy if torch.is_grad_enabled() else "store"
        if policy != "store" and self.awaits_data():
            self.initialize(x, context)  # apart from the layers' own forward pass, which will be run again
        if policy == "invert" and torch.compiler.is_compiling():
            policy = "checkpoint"
        log_det: Tensor | None = None
        for layers, shares in self._runs(policy, log_abs_dets):
            if policy == "store" or layers[0].keeps_own_memory():
                x, term = layers[0](x, context, **shares[0])
            elif policy == "checkpoint" or not layers[0].reconstructs():
                x, term = checkpointed(layers[0], x, context, shares[0])
            else:
                x, term = invert.run(layers, x, context, shares, self.every)
            log_det = term if log_det is None else log_det + term
        return x, no_volume(x) if log_det is None else log_det

    def inverse(
        self, z: Tensor, context: Tensor | None = None, *, inverses: Inverses | None = None
    ) -> tuple[Tensor, Tensor]:
        if inverses is None:
            inverses = self._inverses(self.matrices())
        shares = list(hand_out(inverses, [len(layer.matrices()) for layer in self], "inverses"))
        log_det: Tensor | None = None
        for layer, share in zip(reversed(list(self)), reversed(shares), strict=True):
            z, term = layer.inverse(z, context, **share)
            log_det = term if log_det is None else log_det + term
        return z, no_volume(z) if log_det is None else log_det

    @torch.no_grad()
    def reconstruction_error(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Largest absolute error of the states that ``policy="invert"`` rebuilds for this batch (evaluation mode)."""
        error = x.new_zeros(())
        with evaluating(self):
            for layers, _ in self._runs("invert", None):
                for start in range(0, len(layers), self.every):
                    part = layers[start : start + self.every]
                    if part[0].keeps_own_memory():
                        part_error = part[0].reconstruction_error(x, context)
                        x, _ = part[0](x, context)
                    else:
                        x, part_error = _there_and_back(part, x, context)
                    error = torch.maximum(error, part_error)
        return error

    def _runs(self, policy: str, log_abs_dets: Sequence[Tensor] | None) -> Iterator[Run]:
        """The layers with their shares, one by one; those that can be rebuilt together as one run."""
        shares = hand_out(log_abs_dets, [len(layer.free_weights()) for layer in self], "log_abs_dets")
        run: Run = [], []
        for layer, share in zip(self, shares, strict=True):
            if policy == "invert" and layer.reconstructs() and not layer.keeps_own_memory():
                run[0].append(layer)
                run[1].append(share)
                continue
            if run[0]:
                yield run
                run = [], []
            yield [layer], [share]
        if run[0]:
            yield run

    def keeps_own_memory(self) -> bool:
        return self.policy != "store" or any(layer.keeps_own_memory() for layer in self)

    def reconstructs(self) -> bool:
        return all(layer.reconstructs() for layer in self)

    def free_weights(self) -> list[Tensor]:
        return [weight for layer in self for weight in layer.free_weights()]

    def matrices(self) -> list[Tensor]:
        return [matrix for layer in self for matrix in layer.matrices()]

    def __iter__(self) -> Iterator[Flow]:
        return iter(self.layers)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, index: int) -> Flow:
        return self.layers[index]  # type: ignore[return-value]

    def extra_repr(self) -> str:
        return f"policy={self.policy!r}" + (f", every={self.every}" if self.policy == "invert" else "")


def checkpointed(layer: Flow, x: Tensor, context: Tensor | None, share: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The layer under `torch.utils.checkpoint`; running statistics move once, not again in the backward pass."""
    options: dict[str, Any] = {}
    if not torch.compiler.is_compiling() and updates_statistics([layer]):
        options["context_fn"] = lambda: (nullcontext(), frozen_statistics([layer]))
    return checkpoint(layer, x, context, use_reentrant=False, **options, **share)


def _there_and_back(layers: Sequence[Flow], x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
    z = x
    for layer in layers:
        z, _ = layer(z, context)
    rebuilt = z
    for layer in layers[:0:-1]:  # the input of the first one is kept
        rebuilt, _ = layer.inverse(rebuilt, context)
    first, _ = layers[0](x, context)
    return z, (rebuilt - first).abs().max()
