"""Per-channel affine maps: learned from scratch, or initialised from the first batch (ActNorm)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ... import ops
from .flow import Flow


class ChannelAffine(Flow):
    """A learned scale and shift of each channel, the identity at first; see `genkern.ops.actnorm`.

    Args:
        channels: size of dimension 1 of the input.
        form: ``"scale_then_shift"`` (``e^s x + b``) or ``"shift_then_scale"`` (``e^s (x + b)``).
        bias: without it the map is a pure scaling, as the last layer of NICE.

    >>> z, log_det = ChannelAffine(6)(torch.randn(8, 6, 4, 4))
    >>> log_det[0]
    tensor(0., grad_fn=<SelectBackward0>)
    """

    def __init__(self, channels: int, *, form: str = "scale_then_shift", bias: bool = True):
        super().__init__()
        self.form = form
        self.log_scale = nn.Parameter(torch.zeros(channels))
        if bias:
            self.bias = nn.Parameter(torch.zeros(channels))
        else:
            self.register_buffer("bias", torch.zeros(channels), persistent=False)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return ops.actnorm(x, self.log_scale, self.bias, form=self.form)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return ops.actnorm(z, self.log_scale, self.bias, form=self.form, inverse=True)

    def extra_repr(self) -> str:
        return f"{self.log_scale.numel()}, form={self.form!r}"


class ActNorm(ChannelAffine):
    """Activation normalisation: a channel affine whose first training batch comes out with mean 0 and deviation 1.

    That happens once, in training mode and in the density direction only: never when sampling, in evaluation or after
    a state dict was loaded. Under several processes the statistics are those of the global batch.

    Args:
        channels: size of dimension 1 of the input.
        form: as for `ChannelAffine`.
        eps: added to the deviation, so that a constant channel stays finite.

    Kingma & Dhariwal 2018 (arXiv:1807.03039), section 3.1.

    >>> z, log_det = ActNorm(3)(5 + 2 * torch.randn(64, 3))
    >>> torch.allclose(z.mean(0), torch.zeros(3), atol=1e-5), torch.allclose(z.std(0, correction=0), torch.ones(3))
    (True, True)
    """

    initializes_from_data = True
    initialized: Tensor

    def __init__(self, channels: int, *, form: str = "scale_then_shift", eps: float = 1e-6):
        super().__init__(channels, form=form)
        self.eps = eps
        self.register_buffer("initialized", torch.tensor(False))
        self.pending = True  # mirrors `not initialized`, so that a step asks the host, not the device

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.observe(x)
        return super().forward(x)

    def observe(self, x: Tensor) -> None:
        """Sets the parameters from this batch if it is the first one in training, and there is something in it."""
        if self.training and self.pending and (x.numel() > 0 or _several_processes()):
            self._initialize(x)
            self.pending = False

    @torch.no_grad()
    def _initialize(self, x: Tensor) -> None:
        if x.shape[1] != self.log_scale.numel():
            raise ValueError(f"ActNorm: x must have {self.log_scale.numel()} channels; got {list(x.shape)}.")
        mean, std = channel_statistics(x)
        log_scale = -torch.log(std + self.eps)
        bias = -mean if self.form == "shift_then_scale" else -mean * log_scale.exp()
        for parameter, value in ((self.log_scale, log_scale), (self.bias, bias)):
            parameter.copy_(torch.where(self.initialized, parameter, value.to(parameter.dtype)))
        self.initialized.fill_(True)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        if f"{prefix}initialized" in state_dict:
            self.pending = not bool(state_dict[f"{prefix}initialized"])

    def mark_initialized(self) -> None:
        """Declares the present parameters to be the initialised ones."""
        self.initialized.fill_(True)
        self.pending = False


def channel_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel over the batch of all processes, in float32 or wider; two passes."""
    x = x if x.dtype == torch.float64 else x.float()
    others = [0, *range(2, x.dim())]
    count = torch.full((), x.numel() // max(x.shape[1], 1), dtype=x.dtype, device=x.device)
    total = _across_processes(torch.cat([x.sum(others), count[None]]))
    count = total[-1].clamp(min=1)
    mean = total[:-1] / count
    centred = x - mean.view(-1, *[1] * (x.dim() - 2))
    variance = _across_processes(centred.square().sum(others)) / count
    return mean, variance.sqrt()


def _across_processes(total: Tensor) -> Tensor:
    if _several_processes():
        torch.distributed.all_reduce(total)
    return total


def _several_processes() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
