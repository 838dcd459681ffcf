"""Layers with a bounded Lipschitz constant: what a residual flow is invertible by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LANCZOS_STEPS = 64
FIRST_ITERATIONS = 5


class _Spectral(nn.Module):
    """A linear map whose weight is divided by what its largest singular value exceeds the bound by.

    The singular value is ``u·A v`` for buffers u and v, which power iteration on A itself keeps close to the singular
    vectors in training: `iterations` rounds in each forward pass, and none in a backward pass, so that a layer that is
    run again there (gradient checkpointing) is the same both times. Going to evaluation mode brings them to
    convergence, from a start of their own, and there they stay: what a model computes in evaluation depends on its
    weights alone.
    """

    weight: Tensor
    u: Tensor
    v: Tensor
    _held = False

    def _bound_by(self, bound: float, iterations: int, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> None:
        name = type(self).__name__
        if not 0 < bound:
            raise ValueError(f"{name}: bound must be positive; got {bound}.")
        if iterations < 1:
            raise ValueError(f"{name}: iterations must be at least 1; got {iterations}.")
        self.bound, self.iterations = bound, iterations
        self.register_buffer("u", _unit(torch.randn(1, *outputs)))
        self.register_buffer("v", _unit(torch.randn(1, *inputs)))
        self._iterate(FIRST_ITERATIONS)

    def operator(self, x: Tensor, weight: Tensor) -> Tensor:
        """The map A without its bias, ``[B, *inputs] -> [B, *outputs]``."""
        raise NotImplementedError

    def adjoint(self, y: Tensor, weight: Tensor) -> Tensor:
        """The transpose of A."""
        raise NotImplementedError

    def singular_value(self) -> Tensor:
        """The estimate of the largest singular value of A, before it is bounded; its gradient reaches the weight."""
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        u, v = self.u.detach().clone().to(dtype), self.v.detach().clone().to(dtype)
        with torch.autocast(self.weight.device.type, enabled=False):
            return (u * self.operator(v, self.weight.to(dtype))).sum()

    def bounded_weight(self) -> Tensor:
        """The weight of a map with Lipschitz constant ``bound`` at most."""
        self.advance()
        return self.weight / (self.singular_value() / self.bound).clamp(min=1).to(self.weight.dtype)

    def advance(self) -> None:
        """The power iteration of a forward pass."""
        if self.training and not self._held and not _in_backward():
            self._iterate(self.iterations)

    @torch.no_grad()
    def _iterate(self, rounds: int) -> None:
        with torch.autocast(self.weight.device.type, enabled=False):
            v = self.v.clone()
            for _ in range(rounds):
                u = _unit(self.operator(v, self.weight))
                v = _unit(self.adjoint(u, self.weight))
            self.u.copy_(_unit(self.operator(v, self.weight)))
            self.v.copy_(v)

    @torch.no_grad()
    def converge(self) -> None:
        """Brings u and v to the largest singular value, to about 1e-6 of it (Lanczos, in float64)."""
        weight = self.weight.double()
        start = torch.randn(self.v.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        v = _leading(lambda q: self.adjoint(self.operator(q, weight), weight), start.to(weight.device))
        self.v.copy_(v)
        self.u.copy_(_unit(self.operator(v, weight)))

    def train(self, mode: bool = True) -> _Spectral:
        if self.training and not mode:
            self.converge()
        return super().train(mode)


class SpectralLinear(_Spectral, nn.Linear):
    """A dense layer with spectral norm ``bound`` at most.

    Args:
        in_features, out_features, bias: as of `torch.nn.Linear`.
        bound: the largest Lipschitz constant, in the Euclidean norm.
        iterations: rounds of power iteration for each forward pass in training.

    Miyato et al. 2018 (arXiv:1802.05957); Gouk et al. 2018 (arXiv:1804.04368), which divides only above the bound.
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, *, bound: float = 0.97, iterations: int = 1
    ):
        nn.Linear.__init__(self, in_features, out_features, bias)
        self._bound_by(bound, iterations, (in_features,), (out_features,))

    def operator(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x, weight)

    def adjoint(self, y: Tensor, weight: Tensor) -> Tensor:
        return F.linear(y, weight.T)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.bounded_weight(), self.bias)


class SpectralConv2d(_Spectral, nn.Conv2d):
    """A convolution with zero padding that keeps height and width, of spectral norm ``bound`` at most.

    The norm is that of the convolution as a linear map of pictures, found by iterating the convolution and its
    transpose; that of the reshaped kernel can be smaller or larger.

    Args:
        in_channels, out_channels, bias: as of `torch.nn.Conv2d`.
        kernel_size: odd.
        size: height and width of the pictures; smaller ones have no larger norm.
        bound: the largest Lipschitz constant, in the Euclidean norm.
        iterations: rounds of power iteration for each forward pass in training.

    Gouk et al. 2018 (arXiv:1804.04368), section 3; Behrmann et al. 2019 (arXiv:1811.00995), section 2.1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        size: tuple[int, int],
        bias: bool = True,
        *,
        bound: float = 0.97,
        iterations: int = 1,
    ):
        if kernel_size % 2 == 0:
            raise ValueError(f"SpectralConv2d: kernel_size must be odd; got {kernel_size}.")
        nn.Conv2d.__init__(self, in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias)
        self.size, self.margin = size, kernel_size // 2
        height, width = (1, 1) if kernel_size == 1 else size  # every pixel of a 1x1 convolution is a map of its own
        self._bound_by(bound, iterations, (in_channels, height, width), (out_channels, height, width))

    def operator(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(x, weight, padding=self.margin)

    def adjoint(self, y: Tensor, weight: Tensor) -> Tensor:
        return F.conv_transpose2d(y, weight, padding=self.margin)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2] > self.size[0] or x.shape[-1] > self.size[1]:
            raise ValueError(f"SpectralConv2d: x must be [B, C, H, W] within {self.size}; got {list(x.shape)}.")
        return F.conv2d(x, self.bounded_weight(), self.bias, padding=self.margin)


class LipSwish(nn.Module):
    r"""Swish with a learned slope, divided by what its own slope reaches: Lipschitz 1, with second derivatives.

    .. math:: f(x) = x \, \sigma(\beta x) / 1.1, \qquad \beta = \operatorname{softplus}(b)

    Chen et al. 2019 (arXiv:1906.02735), section 3.2.
    """

    def __init__(self) -> None:
        super().__init__()
        self.raw_beta = nn.Parameter(torch.full((), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(F.softplus(self.raw_beta) * x) / 1.1


def advance(network: nn.Module) -> None:
    """The power iterations of a forward pass of the network."""
    for layer in network.modules():
        if isinstance(layer, _Spectral):
            layer.advance()


@contextmanager
def held(network: nn.Module) -> Iterator[None]:
    """No power iteration in the network's layers for a while: an iteration of the network is one of a single map."""
    layers = [layer for layer in network.modules() if isinstance(layer, _Spectral)]
    for layer in layers:
        layer._held = True
    try:
        yield
    finally:
        for layer in layers:
            layer._held = False


def _in_backward() -> bool:
    """Version counters of the weight would tell more, but fused optimisers do not move them."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def _unit(x: Tensor) -> Tensor:
    return x / x.norm().clamp(min=torch.finfo(x.dtype).tiny)


def _leading(symmetric: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """The eigenvector of the largest eigenvalue of a symmetric map: Lanczos with full reorthogonalisation."""
    shape, q = start.shape, _unit(start).flatten()
    basis, diagonal, beside = [q], [], []
    for _ in range(min(LANCZOS_STEPS, start.numel())):
        w = symmetric(basis[-1].view(shape)).flatten()
        diagonal.append(w @ basis[-1])
        known = torch.stack(basis)
        for _ in range(2):  # once leaves rounding errors behind
            w = w - known.T @ (known @ w)
        size, scale = w.norm(), torch.stack(diagonal).max()
        goes_on = size > 1e-10 * scale  # else the map has no more to show from this start: the rest is zero
        beside.append(torch.where(goes_on, size, 0.0))
        basis.append(torch.where(goes_on, w / size, 0.0))
    alpha, beta = torch.stack(diagonal), torch.stack(beside[:-1]) if len(beside) > 1 else start.new_zeros(0)
    _, vectors = torch.linalg.eigh(alpha.diag() + beta.diag(1) + beta.diag(-1))
    return _unit(vectors[:, -1] @ torch.stack(basis[:-1])).view(shape)
