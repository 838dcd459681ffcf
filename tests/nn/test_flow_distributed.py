"""Two processes (gloo) train as one: ActNorm's first batch is the global one, gradients are DDP's in every policy."""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch import distributed as dist
from torch import multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from genkern.nn import AffineCoupling, FlowSequential, InvertibleConv1x1, Split

POLICIES = ("store", "checkpoint", "invert")


def model(policy: str) -> FlowSequential:
    torch.manual_seed(0)
    layers = [
        layer
        for _ in range(3)
        for layer in (InvertibleConv1x1(4, "free", actnorm=True), AffineCoupling(torch.nn.Conv2d(2, 4, 1)))
    ]
    return FlowSequential(*layers, Split(torch.nn.Conv2d(2, 4, 1)), policy=policy, every=4)


def data() -> Tensor:
    return 5 * torch.randn(8, 4, 2, 2, generator=torch.Generator().manual_seed(1)) + 3


def gradients(policy: str, x: Tensor, distributed: bool) -> dict[str, Tensor]:
    """Of two training steps, the first of which initialises."""
    flow = model(policy)
    trained = DistributedDataParallel(flow) if distributed else flow
    optimizer = torch.optim.SGD(flow.parameters(), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        z, log_det = trained(x)
        (0.5 * z.square().flatten(1).sum(1) - log_det).mean().backward()
        optimizer.step()
    state = {f"state {name}": value.clone() for name, value in flow.state_dict().items()}
    return state | {name: p.grad for name, p in flow.named_parameters() if p.grad is not None}


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    found = {policy: gradients(policy, data()[4 * rank : 4 * rank + 4], distributed=True) for policy in POLICIES}
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.skipif(sys.platform == "win32", reason="gloo over a file store is for POSIX")
def test_two_processes_give_the_gradients_of_one(tmp_path: Path) -> None:
    mp.spawn(work, args=(str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    alone = gradients("store", data(), distributed=False)
    for policy in POLICIES:
        assert_close(ranks[0][policy], ranks[1][policy], rtol=0, atol=0)
        assert_close(ranks[0][policy], alone, rtol=1e-4, atol=1e-5)
