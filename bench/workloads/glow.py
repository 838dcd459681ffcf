"""A training step of a whole Glow, that of `glow-small` on batches of 64, beside the same network of other layers."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from genkern.models.flows import glow
from genkern.nn import ChannelAffine, Flow, FlowSequential, InvertibleConv1x1

from ..definitions import compiled, genkern_compiled, of_model
from ..registry import TRAIN, Function, Inputs, Rival, Workload, seeded

PRESET = replace(glow.PRESETS["glow-small"], levels=None, dropout=0.0)  # noise of pixels has rows of its own


class NormflowsStep(Flow):
    """A step of flow of normflows' layers, on the parameters of one of genkern's."""

    def __init__(self, conv: InvertibleConv1x1, network: nn.Module):
        from normflows.flows import ActNorm, AffineCouplingBlock, Invertible1x1Conv

        super().__init__()
        channels = len(conv.lower)
        mixing = Invertible1x1Conv(channels, use_lu=True)
        mixing.P.copy_(torch.eye(channels)[conv.permutation])
        mixing.sign_S.copy_(conv.signs)
        mixing.L, mixing.U, mixing.log_S = conv.lower, conv.upper, conv.log_diagonal
        norm = ActNorm((channels, 1, 1))
        norm.data_dep_init_done.fill_(1)
        del norm.s, norm.t
        self.conv, self.norm, self.mixing = conv, norm, mixing
        self.coupling = AffineCouplingBlock(network, scale_map="sigmoid")

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        first = self.conv.actnorm
        assert first is not None
        log_scale, bias = first.log_scale.view(1, -1, 1, 1), first.bias.view(1, -1, 1, 1)
        self.norm.s, self.norm.t = -log_scale, -bias * (-log_scale).exp()  # normflows divides, and subtracts first
        total = x.new_zeros(len(x))
        for layer in (self.norm, self.mixing, self.coupling):  # normflows calls the density direction `inverse`
            x, log_det = layer.inverse(x)  # type: ignore[operator]
            total = total + log_det
        return x, total

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        raise NotImplementedError("only training is measured")


def exchange(model: nn.Module) -> None:
    """Puts normflows' layers into the steps of a Glow."""
    for container in [module for module in model.modules() if isinstance(module, FlowSequential)]:
        for i, layer in enumerate(container):
            if isinstance(layer, FlowSequential) and isinstance(layer[0], InvertibleConv1x1):
                container.layers[i] = NormflowsStep(layer[0], layer[1].network)  # type: ignore[arg-type]


def loss(x: Tensor, model: glow.Glow) -> Tensor:
    return model.loss(x.detach()).total


class OfNormflows:
    """The loss of a Glow of normflows' layers that has the parameters of the Glow it is given."""

    def __init__(self) -> None:
        import normflows  # noqa: F401

        self.made: dict[int, glow.Glow] = {}

    def __call__(self, x: Tensor, model: glow.Glow) -> Tensor:
        found = self.made.get(id(model))
        if found is None:
            found = self.made[id(model)] = glow.Glow(model.config).to(x)
            replaced = dict(model.named_modules())
            for name, module in list(found.named_modules()):  # the same parameters, not copies of them
                for parameter in list(module._parameters):
                    module._parameters[parameter] = replaced[name]._parameters[parameter]
                for buffer in list(module._buffers):
                    module._buffers[buffer] = replaced[name]._buffers[buffer]
            exchange(found)
        return loss(x, found)


def workload(batch: int, **description: Any) -> Workload:
    def make(device: torch.device, dtype: torch.dtype) -> Inputs:
        x = seeded((batch, *PRESET.shape), device, dtype)
        model = glow.Glow(PRESET).to(device, dtype)
        model.initialize(x)
        with torch.no_grad():  # away from the first batch's statistics, where gradients of normalisations are 0
            for module in model.modules():
                if isinstance(module, ChannelAffine):
                    module.bias.add_(0.1 * torch.randn_like(module.bias))
                    module.log_scale.add_(0.1 * torch.randn_like(module.log_scale))
        return x, model

    def run(impl: str) -> Function:
        return of_model(loss, impl)

    # its couplings start at zero, where the loss is that of genkern's, but their scales have another derivative
    rivals = {"normflows": Rival(OfNormflows, same_gradients=False), "genkern compiled": genkern_compiled(loss)}
    name = f"training step of glow-small, batch {batch}"
    return Workload(name, make, run, modes=(TRAIN,), rivals=rivals, compiled=lambda: compiled(loss), **description)


WORKLOADS = [workload(64, quick=("eager", "normflows"))]
SWEEP = [workload(batch) for batch in (4, 16, 64)]
REASONS = {
    "compile": "on pictures of 8x8 a step is mostly calls, a few hundred, and the coupling networks' convolutions;"
    " compiled, both are fewer, for a user of genkern too: `genkern compiled`",
}
