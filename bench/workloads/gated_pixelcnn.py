"""A training step of Gated PixelCNN on 28x28 pictures of 256 levels; its sampling is that of `causal_sample`."""

from typing import Any

import torch
from torch import Tensor

from genkern.models.autoregressive.gated_pixelcnn import Config, GatedPixelCNN

from ..definitions import compiled, genkern_compiled, of_model
from ..registry import TRAIN, Function, Inputs, Workload


def loss(x: Tensor, model: GatedPixelCNN) -> Tensor:
    return model.loss(x).total


def workload(batch: int, side: int, levels: int, **description: Any) -> Workload:
    config = Config((1, side, side), levels, layers=5, channels=32, head=32)

    def make(device: torch.device, dtype: torch.dtype) -> Inputs:
        x = torch.randint(0, levels, (batch, *config.shape), dtype=torch.uint8).to(device)
        return x, GatedPixelCNN(config).to(device, dtype)

    def run(impl: str) -> Function:
        return of_model(loss, impl)

    name = f"training step, batch {batch} of {side}x{side}, 5 layers of 32"
    rivals = {"genkern compiled": genkern_compiled(loss)}
    return Workload(name, make, run, modes=(TRAIN,), rivals=rivals, compiled=lambda: compiled(loss), **description)


WORKLOADS = [workload(16, 28, 256), workload(64, 8, 17, quick=("eager",))]
SWEEP = [workload(batch, 8, 17) for batch in (4, 16, 64)]
REASONS = {
    "compile": "most of a step is the masked convolutions, which are PyTorch's; compiled code fuses what lies between"
    " them and keeps fewer maps, for a user of genkern too: `genkern compiled`",
}
