"""Couplings of Glow (32x32 pictures, second level: 48 channels of 16x16) and of RealNVP on vectors."""

from typing import Any

import torch
from torch import Tensor, nn

from genkern.ops import additive_coupling, affine_coupling

from ..registry import FORWARD, MODES, Function, Inputs, Rival, Workload, seeded, shape_name

GLOW, VECTORS, TINY = (64, 48, 16, 16), (4096, 64), (4, 8)


class Given(nn.Module):
    """Stands for the network of a peer's layer: its output is there already."""

    params: Tensor

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.params


def freia() -> Function:
    from FrEIA.modules import AffineCouplingOneSided

    network, layers = Given(), {}

    def run(x: Tensor, params: Tensor) -> Any:
        shape = tuple(x.shape[1:])
        if shape not in layers:
            layers[shape] = AffineCouplingOneSided(
                [shape], subnet_constructor=lambda *sizes: network, clamp=1.0, clamp_activation="TANH"
            )
        network.params = params
        (y,), log_det = layers[shape]((x,))
        return y, log_det

    return run


def normflows() -> Function:
    """Its parameters alternate, so that its values are other ones."""
    from normflows.flows import AffineCoupling

    layer = AffineCoupling(Given(), scale_map="sigmoid_inv")

    def run(x: Tensor, params: Tensor) -> Any:
        layer.param_map.params = params
        halves, log_det = layer(x.chunk(2, dim=1))
        return torch.cat(halves, 1), log_det

    return run


RIVALS = {"sigmoid": {"normflows": Rival(normflows, same_values=False)}, "tanh": {"FrEIA": Rival(freia)}}


def coupling(scale: str, shape: tuple[int, ...], inverse: bool = False, **description: Any) -> Workload:
    def make(device: torch.device, dtype: torch.dtype) -> Inputs:
        return seeded(shape, device, dtype), seeded(shape, device, dtype)

    def run(impl: str) -> Function:
        return lambda x, params: affine_coupling(x, params, scale=scale, inverse=inverse, impl=impl)

    modes = (FORWARD,) if inverse else MODES
    name = f"{scale} {'inverse ' if inverse else ''}{shape_name(shape)}"
    rivals = {} if inverse else RIVALS.get(scale, {})
    return Workload(name, make, run, modes=modes, rivals=rivals, **description)


def additive(shape: tuple[int, ...]) -> Workload:
    def make(device: torch.device, dtype: torch.dtype) -> Inputs:
        return seeded(shape, device, dtype), seeded((shape[0], shape[1] // 2, *shape[2:]), device, dtype)

    def run(impl: str) -> Function:
        return lambda x, shift: additive_coupling(x, shift, impl=impl)

    return Workload(f"additive {shape_name(shape)}", make, run, backward_reads=())


WORKLOADS = [
    coupling("sigmoid", GLOW, quick=("eager", "compile")),
    coupling("sigmoid", VECTORS),
    coupling("sigmoid", GLOW, inverse=True),
    coupling("tanh", GLOW),
    coupling("tanh", VECTORS),
    coupling("exp", GLOW),
    coupling("exp", VECTORS),
    additive(GLOW),
    additive(VECTORS),
    coupling("sigmoid", TINY, launch=True),
]
SWEEP = [coupling("sigmoid", (b, 48, 16, 16)) for b in (1, 4, 16, 64, 256)]
