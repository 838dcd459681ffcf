"""Writes layers.safetensors: layers of normflows 1.7.3 and nflows 0.14 with an input, and their output for it.

pip install --no-deps normflows==1.7.3 nflows==0.14 && python tests/nn/peers/make.py
"""

from pathlib import Path

import nflows.transforms as nt
import normflows as nf
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

tensors: dict[str, Tensor] = {}


class Net(nn.Sequential):
    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return super().forward(x)


def record(name: str, layer: nn.Module, x: Tensor) -> None:
    """The layer with all parameters moved, and its output in the density direction."""
    density = layer.train() if name.startswith("nflows") else layer.inverse
    density(x)  # initialises
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
        z, log_det = density(x)
    tensors.update({f"{name}/state/{key}": value.clone().contiguous() for key, value in layer.state_dict().items()})
    for key, value in (("x", x), ("z", z), ("log_det", log_det.expand(len(x)))):
        tensors[f"{name}/{key}"] = value.clone().contiguous()


def main() -> None:
    torch.manual_seed(0)
    picture, odd = torch.randn(4, 4, 2, 2) + 1, torch.randn(4, 5, 2, 2)
    record("normflows glow block sigmoid", nf.flows.GlowBlock(4, 3, init_zeros=False), picture)
    record("normflows glow block exp free", nf.flows.GlowBlock(4, 3, scale_map="exp", use_lu=False), picture)
    options = {"scale_map": "sigmoid_inv", "split_mode": "channel_inv", "leaky": 0.1}
    record("normflows glow block sigmoid_inv odd", nf.flows.GlowBlock(5, 3, **options), odd)
    record("normflows glow block additive", nf.flows.GlowBlock(4, 3, scale=False), picture)
    mask = [0, 1, 1, 0, 1]
    record(
        "nflows affine vector", nt.AffineCouplingTransform(mask, lambda i, o: Net(nn.Linear(i, o))), torch.randn(4, 5)
    )
    record("nflows affine picture", nt.AffineCouplingTransform(mask, lambda i, o: Net(nn.Conv2d(i, o, 1))), odd)
    record("nflows additive", nt.AdditiveCouplingTransform(mask, lambda i, o: Net(nn.Linear(i, o))), torch.randn(4, 5))
    record("nflows actnorm", nt.ActNorm(5), odd)
    record("nflows conv1x1", nt.OneByOneConvolution(5), odd)
    options = {"num_bins": 5, "tails": "linear", "tail_bound": 2.0}
    spline = nt.PiecewiseRationalQuadraticCouplingTransform
    record("nflows spline vector", spline(mask, lambda i, o: Net(nn.Linear(i, o)), **options), torch.randn(4, 5))
    with_own = spline(mask, lambda i, o: Net(nn.Linear(i, o)), apply_unconditional_transform=True, **options)
    record("nflows spline vector with own splines", with_own, torch.randn(4, 5))
    record("nflows spline picture", spline(mask, lambda i, o: Net(nn.Conv2d(i, o, 1)), **options), odd)
    record("normflows spline", nf.flows.CoupledRationalQuadraticSpline(5, 2, 8), torch.randn(4, 5))
    save_file(tensors, str(Path(__file__).parent / "layers.safetensors"))


if __name__ == "__main__":
    main()
