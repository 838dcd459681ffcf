"""A continuous flow on vectors, with a fixed step: the layer, the same by hand, and torchdiffeq's own solver."""

from typing import Any

import torch
from torch import Tensor, nn

from genkern.nn import CNF, VelocityNetwork

from ..registry import TRAIN, Function, Inputs, Rival, Workload, seeded

STEPS = 8
State = tuple[Tensor, Tensor]


def rates(f: nn.Module, t: Tensor, z: Tensor) -> State:
    """The velocity, and its divergence from one vector-Jacobian product for each dimension."""
    with torch.enable_grad():
        z = z if z.requires_grad else z.detach().requires_grad_()
        v = f(t, z)
        rows = [torch.autograd.grad(v[:, i].sum(), z, create_graph=True)[0][:, i] for i in range(z.shape[1])]
    return v, torch.stack(rows).sum(0)


def by_hand(x: Tensor, flow: CNF) -> State:
    """Runge and Kutta's step with the 3/8 rule, as torchdiffeq's `rk4`."""
    z, total, h = x, x.new_zeros(len(x)), 1 / STEPS
    for i in range(STEPS):
        t = x.new_tensor(i * h)
        k1, d1 = rates(flow.velocity, t, z)
        k2, d2 = rates(flow.velocity, t + h / 3, z + h * k1 / 3)
        k3, d3 = rates(flow.velocity, t + h * 2 / 3, z + h * (k2 - k1 / 3))
        k4, d4 = rates(flow.velocity, t + h, z + h * (k1 - k2 + k3))
        z = z + (k1 + 3 * (k2 + k3) + k4) * (h / 8)
        total = total + (d1 + 3 * (d2 + d3) + d4) * (h / 8)
    return z, total


def torchdiffeq() -> Function:
    from torchdiffeq import odeint

    def run(x: Tensor, flow: CNF) -> State:
        times = torch.linspace(0, 1, STEPS + 1, dtype=x.dtype, device=x.device)
        start = (x, x.new_zeros(len(x)))
        z, total = odeint(lambda t, state: rates(flow.velocity, t, state[0]), start, times, method="rk4")
        return z[-1], total[-1]

    return run


def workload(batch: int, dims: int, **description: Any) -> Workload:
    def make(device: torch.device, dtype: torch.dtype) -> Inputs:
        flow = CNF(VelocityNetwork((dims,), hidden=64), divergence="exact", solver="rk4", steps=STEPS, adjoint=False)
        return seeded((batch, dims), device, dtype), flow.to(device, dtype)

    def run(impl: str) -> Function:
        return by_hand if impl == "torch" else (lambda x, flow: flow(x))

    rivals = {"torchdiffeq": Rival(torchdiffeq)}
    name = f"rk4, {STEPS} steps, exact trace, {batch}x{dims}"
    return Workload(name, make, run, modes=(TRAIN,), compiles=(), rivals=rivals, **description)


WORKLOADS = [workload(512, 2, quick=("eager", "torchdiffeq"))]
SWEEP = [workload(batch, 2) for batch in (16, 256, 4096)]
REASONS = {
    "eager": "the network and its derivatives are the whole of it, PyTorch's in both; solver and trace are a few calls",
}
