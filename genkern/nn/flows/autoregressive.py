"""Autoregressive flows: each element is transformed with parameters that a network computes from those before it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ... import ops
from ..autoregressive.made import MADE
from .elementwise import AffineTransform, ElementwiseTransform, GatedTransform
from .flow import Flow, Inverse, no_volume


class MaskedAutoregressive(Flow):
    r"""``z_d = T(x_d; p_d(x_{<d}))``: one pass of the network in the density direction, a recursion in the other.

    Args:
        network: ``[B, D] -> [B, P * D]``, parameters first, parameter p of element d in row ``p * D + d``, a function
            of the elements before d alone: `genkern.nn.MADE`. It gets ``(x, context)`` where there is a context.
        transform: an elementwise transform with P parameters, such as `AffineTransform` (the default) or a spline.

    Papamakarios et al. 2017 (arXiv:1705.07057), section 3.

    >>> flow = MaskedAutoregressive(MADE(4, 32, outputs=2))
    >>> z, log_det = flow(torch.randn(8, 4))
    """

    def __init__(self, network: nn.Module, transform: ElementwiseTransform | None = None):
        super().__init__()
        self.network, self.transform = network, AffineTransform() if transform is None else transform

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        with torch.autocast(x.device.type, enabled=False):  # the recursion has to find the same parameters again
            return self.transform(x, self.parameters_for(x, context))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        with torch.autocast(z.device.type, enabled=False):
            if not isinstance(self.network, MADE):
                return by_passes(self, z, context)
            if isinstance(self.transform, AffineTransform | GatedTransform):
                return solve_in_one_call(self.network, self.transform, z, context)
            return solve_by_steps(self.network, self.transform, z, context)

    def parameters_for(self, x: Tensor, context: Tensor | None) -> Tensor:
        return self.network(x) if context is None else self.network(x, context)

    def extra_repr(self) -> str:
        return f"transform={self.transform!r}"


class InverseAutoregressive(Inverse):
    r"""``x_d = T(z_d; p_d(z_{<d}))``: one pass of the network in the sampling direction, a recursion in the other.

    Args:
        network: as in `MaskedAutoregressive`; it reads latents.
        transform: `GatedTransform` by default, the paper's numerically stable form.

    Kingma et al. 2016 (arXiv:1606.04934), section 3.

    >>> flow = InverseAutoregressive(MADE(4, 32, outputs=2))
    >>> x, log_det = flow.inverse(torch.randn(8, 4))
    """

    def __init__(self, network: nn.Module, transform: ElementwiseTransform | None = None):
        super().__init__(MaskedAutoregressive(network, GatedTransform() if transform is None else transform))


def solve_in_one_call(
    network: MADE, transform: AffineTransform | GatedTransform, z: Tensor, context: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The inverse for an affine transform; see `genkern.ops.made_inverse`."""
    weight, bias = network.flat_parameters()
    return ops.made_inverse(
        z,
        weight,
        bias,
        offset=network.offset(context),
        **network.structure,
        scale=transform.scale,
        bound=transform.bound,
        standardize=transform.standardize,
    )


def solve_by_steps(
    network: MADE, transform: ElementwiseTransform, z: Tensor, context: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The inverse for any elementwise transform: D steps, in which each hidden unit is computed once."""
    return network.by_steps(z, lambda element, params: transform(element, params, inverse=True), context)


def by_passes(flow: MaskedAutoregressive, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The inverse by D passes of the whole network, each of which gets one more element right: for any network."""
    x, log_det = z, no_volume(z)
    for _ in range(z.shape[1]):
        x, log_det = flow.transform(z, flow.parameters_for(x, context), inverse=True)
    return x, log_det
