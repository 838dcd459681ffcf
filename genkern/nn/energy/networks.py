"""Networks of energies and of the logits of a classifier that is one: convolutions, no batch statistics."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, leaky_relu
from torch.nn.utils.parametrizations import spectral_norm

SLOPE = 0.2  # of the leaky rectifier


class ConvEnergy(nn.Module):
    """Convolutions that halve the resolution, then a linear layer: pictures ``[B, C, H, W]`` to ``[B, outputs]``.

    Smooth (SiLU), so that scores have derivatives, and small: a chain of many steps is a matter of milliseconds.

    Args:
        shape: of a picture, ``(C, H, W)``.
        outputs: 1 for an energy, the number of classes for logits.
        channels: of the convolutions; all but the first one halve the resolution.

    >>> ConvEnergy((1, 8, 8))(torch.rand(2, 1, 8, 8)).shape
    torch.Size([2, 1])
    """

    def __init__(self, shape: tuple[int, ...], outputs: int = 1, channels: tuple[int, ...] = (32, 64, 128)):
        super().__init__()
        if len(shape) != 3 or not channels:
            raise ValueError(f"ConvEnergy: shape must be (C, H, W), with some channels; got {shape}, {channels}.")
        inputs, height, width = shape
        layers: list[nn.Module] = []
        for i, count in enumerate(channels):
            layers += [nn.Conv2d(inputs, count, 3, stride=1 if i == 0 else 2, padding=1), nn.SiLU()]
            inputs = count
            if i:
                height, width = (height + 1) // 2, (width + 1) // 2
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Linear(inputs * height * width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class ResidualEnergy(nn.Module):
    """A residual network without normalisation layers: pictures to ``[B, outputs]``.

    With spectral normalisation and sums over sites it is the network of IGEBM (table 7 there); without, a wide residual
    network as in JEM, whose outputs are logits.

    Args:
        shape: of a picture.
        outputs: 1 for an energy, the number of classes for logits.
        channels: of each stage; the stages but the first begin with half the resolution.
        blocks: residual blocks of a stage.
        spectral: bounds the Lipschitz constant of every convolution by a power iteration, in training mode.
        pool: ``"sum"`` or ``"mean"`` over sites.

    >>> import torch
    >>> ResidualEnergy((3, 8, 8), channels=(8, 16), blocks=1)(torch.rand(2, 3, 8, 8)).shape
    torch.Size([2, 1])
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        outputs: int = 1,
        channels: tuple[int, ...] = (128, 256, 256),
        blocks: int = 2,
        *,
        spectral: bool = True,
        pool: str = "sum",
    ):
        super().__init__()
        if len(shape) != 3 or pool not in ("sum", "mean"):
            raise ValueError(
                f"ResidualEnergy: wanted a shape (C, H, W) and pool 'sum' or 'mean'; got {shape}, {pool!r}."
            )
        self.pool = pool
        self.first = convolution(shape[0], channels[0], 3, spectral)
        inputs, stages = channels[0], []
        for stage, count in enumerate(channels):
            for block in range(blocks):
                stages.append(EnergyBlock(inputs, count, halve=stage > 0 and block == 0, spectral=spectral))
                inputs = count
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        h = leaky_relu(self.stages(self.first(x)), SLOPE).flatten(2)
        return self.head(h.sum(2) if self.pool == "sum" else h.mean(2))


class EnergyBlock(nn.Module):
    """Two convolutions around which the input goes, then perhaps half the resolution."""

    def __init__(self, inputs: int, outputs: int, *, halve: bool, spectral: bool):
        super().__init__()
        self.halve = halve
        self.first, self.second = convolution(inputs, outputs, 3, spectral), convolution(outputs, outputs, 3, spectral)
        self.around = nn.Identity() if inputs == outputs else convolution(inputs, outputs, 1, spectral)

    def forward(self, x: Tensor) -> Tensor:
        h = self.second(leaky_relu(self.first(leaky_relu(x, SLOPE)), SLOPE)) + self.around(x)
        return avg_pool2d(h, 2) if self.halve else h


def convolution(inputs: int, outputs: int, size: int, spectral: bool) -> nn.Module:
    layer = nn.Conv2d(inputs, outputs, size, padding=size // 2)
    return spectral_norm(layer) if spectral else layer
