"""A run of flow layers whose inputs are rebuilt from their outputs in the backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .flow import Flow, hand_out
from .matrices import inverses
from .replay import Autocast, RandomStates, frozen_statistics


def run(
    layers: Sequence[Flow], x: Tensor, context: Tensor | None, shares: Sequence[dict[str, Any]], every: int
) -> tuple[Tensor, Tensor]:
    """``(z, log_det)`` of the layers, storing the state at every ``every``-th layer and nothing else."""
    dets = [det for share in shares for det in share.get("log_abs_dets", ())]
    plan = Plan(layers, every, len(dets))
    return _Run.apply(plan, x, context, *dets, *plan.parameters)


class Plan:
    """The layers of a run, their parameters, and which of the determinants and inverses are whose."""

    def __init__(self, layers: Sequence[Flow], every: int, dets: int):
        self.layers, self.every, self.dets = list(layers), every, dets
        self.states = -(-len(self.layers) // every)
        parameters = (p for layer in layers for p in layer.parameters() if p.requires_grad)
        self.parameters = list({id(p): p for p in parameters}.values())

    def shares(self, dets: Sequence[Tensor]) -> list[dict[str, Any]]:
        return list(hand_out(dets, [len(layer.free_weights()) for layer in self.layers], "log_abs_dets"))

    def inverse_shares(self) -> list[dict[str, Any]]:
        """The inverses of all the small matrices of the run, from one call."""
        matrices = [matrix for layer in self.layers for matrix in layer.matrices()]
        return list(hand_out(inverses(matrices), [len(layer.matrices()) for layer in self.layers], "inverses"))


class _Run(torch.autograd.Function):
    """Gradients of parameters are returned as those of inputs, so that hooks (DDP) fire as they always do."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, x: Tensor, context: Tensor | None, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        ctx.plan, ctx.autocast, ctx.random = plan, Autocast(x.device.type), RandomStates(x.device)
        kept: list[Tensor] = []
        log_dets: list[Tensor] = []
        with ctx.autocast.restored():
            for i, (layer, share) in enumerate(zip(plan.layers, plan.shares(tensors[: plan.dets]), strict=True)):
                if i % plan.every == 0:
                    kept.append(x)
                ctx.random.record()
                x, log_det = layer(x, context, **share)
                log_dets.append(log_det)
                _check_precision(layer, x)
        ctx.random.record()
        ctx.save_for_backward(context, x, *kept, *tensors)
        return x, sum(log_dets[1:], log_dets[0])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "FlowSequential: policy='invert' has first derivatives only; "
                "for a gradient of a gradient use policy='store' or 'checkpoint'."
            )
        plan: Plan = ctx.plan
        grad_x, grad_log_det = grads
        context, state, *saved = ctx.saved_tensors
        kept, dets = saved[: plan.states], saved[plan.states : plan.states + plan.dets]
        needed = ctx.needs_input_grad[2:]  # context, dets, parameters
        if context is not None:
            context = context.detach().requires_grad_(needed[0])
        dets = [det.detach().requires_grad_(need) for det, need in zip(dets, needed[1:], strict=False)]
        totals = Totals([context, *dets, *plan.parameters])
        shares, inverse_shares = plan.shares(dets), plan.inverse_shares()
        with ctx.random.forked(), frozen_statistics(plan.layers):
            for i in reversed(range(len(plan.layers))):
                layer = plan.layers[i]
                if i % plan.every == 0:
                    state = kept[i // plan.every]
                else:
                    ctx.random.restore(i)
                    with ctx.autocast.restored():
                        state, _ = layer.inverse(state, context, **inverse_shares[i])
                state = state.detach().requires_grad_(i > 0 or ctx.needs_input_grad[1])
                ctx.random.restore(i)
                with ctx.autocast.restored(), torch.enable_grad():
                    outputs = layer(state, context, **shares[i])
                others = [context, *shares[i].get("log_abs_dets", ()), *layer.parameters()]
                grad_x = _pull_back(outputs, (grad_x, grad_log_det), state, others, totals)
        return None, grad_x, *totals.sums


def _pull_back(
    outputs: Sequence[Tensor], grads: Sequence[Tensor], x: Tensor, others: Sequence[Tensor | None], totals: Totals
) -> Tensor | None:
    """The gradient of a layer's input; those of all else are added to the totals."""
    inputs = [t for t in (x, *others) if t is not None and t.requires_grad]
    pairs = [(out, grad) for out, grad in zip(outputs, grads, strict=True) if out.requires_grad]
    if not inputs or not pairs:
        return None
    found = torch.autograd.grad([out for out, _ in pairs], inputs, [grad for _, grad in pairs], allow_unused=True)
    if not x.requires_grad:
        totals.add(inputs, found)
        return None
    totals.add(inputs[1:], found[1:])
    return torch.zeros_like(x) if found[0] is None else found[0]


class Totals:
    """Sums of gradients over the layers, one for each tensor."""

    def __init__(self, tensors: Sequence[Tensor | None]):
        self.places = {id(tensor): place for place, tensor in enumerate(tensors) if tensor is not None}
        self.sums: list[Tensor | None] = [None] * len(tensors)

    def add(self, tensors: Sequence[Tensor], grads: Sequence[Tensor | None]) -> None:
        for tensor, grad in zip(tensors, grads, strict=True):
            if grad is not None:
                place = self.places[id(tensor)]
                before = self.sums[place]
                self.sums[place] = grad if before is None else before + grad


def _check_precision(layer: Flow, state: Tensor) -> None:
    if state.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"FlowSequential: policy='invert' needs states of float32 or float64; got {state.dtype} from "
            f"{type(layer).__name__}. Under torch.autocast the state stays in float32 and the networks do not."
        )
