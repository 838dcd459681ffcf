"""Writes rosinality.safetensors: small Glows of rosinality/glow-pytorch with an input, and their output for it.

git clone https://github.com/rosinality/glow-pytorch && PYTHONPATH=glow-pytorch python tests/nn/peers/make_rosinality.py
"""

from pathlib import Path

import model
import torch
from safetensors.torch import save_file
from torch import Tensor

tensors: dict[str, Tensor] = {}


def record(name: str, **options: bool) -> None:
    """Two levels of one step, with all parameters moved and one scale negative."""
    glow, x = model.Glow(1, 1, 2, **options), torch.randn(3, 1, 4, 4)
    with torch.no_grad():
        glow(x)  # initialises
        for parameter in glow.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
        glow.blocks[0].flows[0].actnorm.scale[0, 1] *= -1
        log_p, log_det, _ = glow(x)
    tensors.update({f"{name}/state/{key}": value.clone().contiguous() for key, value in glow.state_dict().items()})
    for key, value in (("x", x), ("log_prob", log_p + log_det)):
        tensors[f"{name}/{key}"] = value.clone().contiguous()


if __name__ == "__main__":
    torch.manual_seed(0)
    model.AffineCoupling.__init__.__defaults__ = (4, True)  # hidden channels: 512 are a megabyte a step
    record("affine")
    record("additive", affine=False)
    record("free", conv_lu=False)
    save_file(tensors, str(Path(__file__).parent / "rosinality.safetensors"))
