"""Free bits: information that latents may carry at no cost, so that they are not given up early in training."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def free_bits(kl: Tensor, minimum: float) -> Tensor:
    r"""The cost of groups of latents, of which each is charged at least ``minimum`` nats.

    .. math:: \sum_g \max\Big(\lambda, \tfrac1B \sum_b \mathrm{KL}_{b,g}\Big)

    The mean over the batch is bounded, not each sample: a sample may say less if another says more. With several
    processes it is the mean over all of them that counts, and the mean of their costs is that of one whole batch.

    Args:
        kl: divergences in nats, ``[B, G]`` (or ``[B]``, one group); what belongs to one group is summed before.
        minimum: :math:`\lambda`, in nats for a group; where the mean is below, the gradient is 0.

    Returns:
        Nats, a scalar.

    Kingma et al. 2016 (arXiv:1606.04934), eq. 15.

    >>> free_bits(torch.tensor([[0.1, 1.0], [0.3, 3.0]]), 0.5)
    tensor(2.5000)
    """
    if minimum < 0:
        raise ValueError(f"free_bits: minimum must not be negative; got {minimum}.")
    if kl.dim() not in (1, 2):
        raise ValueError(f"free_bits: kl must be [B, G] or [B]; got {list(kl.shape)}.")
    mean = kl.mean(0)
    return torch.where(mean_over_processes(mean.detach()) > minimum, mean, minimum).sum()


class SoftFreeBits(nn.Module):
    r"""A weight on the divergence that follows it: up while latents say more than they should, down while less.

    .. math:: L = \gamma \overline{\mathrm{KL}}, \qquad
              \gamma \leftarrow \begin{cases} (1 + r) \gamma & \overline{\mathrm{KL}} > (1 + \epsilon) \lambda \\
              \gamma / (1 + r) & \overline{\mathrm{KL}} < \lambda \end{cases}

    within ``[smallest, 1]``. Unlike `free_bits` it never has a gradient of zero. The weight is a buffer, so that a run
    resumes where it was; it changes in training mode alone.

    Args:
        target: :math:`\lambda`, in nats of a sample.
        tolerance: :math:`\epsilon`.
        rate: :math:`r`.
        smallest: of the weight.

    Chen et al. 2017 (arXiv:1611.02731), appendix.

    >>> soft = SoftFreeBits(target=4.0)
    >>> soft(torch.full((8,), 2.0)), soft.weight
    (tensor(2.), tensor(0.9091))
    """

    weight: Tensor

    def __init__(self, target: float, tolerance: float = 0.05, rate: float = 0.1, smallest: float = 1e-4):
        super().__init__()
        if not (target > 0 and tolerance >= 0 and rate > 0 and 0 < smallest <= 1):
            wanted = "target and rate must be positive, tolerance not negative, smallest in (0, 1]"
            raise ValueError(f"SoftFreeBits: {wanted}; got {target}, {rate}, {tolerance}, {smallest}.")
        self.target, self.tolerance, self.rate, self.smallest = target, tolerance, rate, smallest
        self.register_buffer("weight", torch.ones(()))

    def forward(self, kl: Tensor) -> Tensor:
        """The weighted mean of divergences ``[B]``, a scalar."""
        mean = kl.mean()
        cost = self.weight.clone() * mean
        if self.training:
            self._follow(mean.detach())
        return cost

    @torch.no_grad()
    def _follow(self, mean: Tensor) -> None:
        mean = mean_over_processes(mean)
        step = 1 + self.rate
        factor = torch.where(
            mean > (1 + self.tolerance) * self.target, step, torch.where(mean < self.target, 1 / step, 1)
        )
        self.weight.mul_(factor.to(self.weight)).clamp_(self.smallest, 1.0)

    def extra_repr(self) -> str:
        return f"target={self.target}, tolerance={self.tolerance}, rate={self.rate}"


def mean_over_processes(value: Tensor) -> Tensor:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value
    value = value.clone()
    torch.distributed.all_reduce(value)
    return value / torch.distributed.get_world_size()
