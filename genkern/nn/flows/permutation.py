"""Fixed permutations and learned rotations of the channels, between layers that treat channels differently.

The third of the kind, an LU-factorised linear map of vectors, is `InvertibleConv1x1` (``"plu"``) on ``[B, D]``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ... import ops
from ...ops._library import wide_dtype
from .conv1x1 import full_precision, widen
from .flow import Flow, no_volume


class Permutation(Flow):
    """``y_c = x_order[c]`` on dimension 1, fixed.

    Args:
        channels: size of dimension 1.
        order: ``"reverse"``, ``"random"`` (by the seed), or the channels' numbers.
        seed: of the random order, which the state dict holds.

    >>> Permutation(3)(torch.tensor([[1.0, 2.0, 3.0]]))[0]
    tensor([[3., 2., 1.]])
    """

    order: Tensor

    def __init__(self, channels: int, order: str | Sequence[int] = "reverse", *, seed: int = 0):
        super().__init__()
        if order == "reverse":
            chosen = torch.arange(channels).flip(0)
        elif order == "random":
            chosen = torch.randperm(channels, generator=torch.Generator().manual_seed(seed))
        elif isinstance(order, str) or sorted(order) != list(range(channels)):
            wanted = f"'reverse', 'random' or a permutation of {channels} numbers"
            raise ValueError(f"Permutation: order must be {wanted}; got {order!r}.")
        else:
            chosen = torch.tensor(list(order))
        self.register_buffer("order", chosen)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x.index_select(1, self.order), no_volume(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return z.index_select(1, self.order.argsort()), no_volume(z)

    def extra_repr(self) -> str:
        return f"{len(self.order)}"


class Householder(Flow):
    r"""``y = Q x`` at every position, ``Q`` a product of reflections: orthogonal, so that volume is preserved.

    .. math:: Q = \prod_k \left(I - 2\, v_k v_k^\top\right) = I - V T V^\top, \qquad
              T^{-1} = \tfrac{1}{2} I + \mathrm{triu}(V^\top V, 1), \qquad \lVert v_k \rVert = 1

    The compact form needs a triangular solve and two products in place of one product after the other. The inverse is
    the transpose.

    Args:
        channels: size of dimension 1.
        reflections: how many, C by default: every orthogonal matrix is a product of C or fewer.

    Tomczak & Welling 2016 (arXiv:1611.09630), section 3; the compact form is that of Schreiber & Van Loan 1989, with T
    as in Joffrain et al. 2006 (ACM TOMS 32:2).

    >>> layer = Householder(6)
    >>> z, log_det = layer(torch.randn(8, 6, 4, 4))
    """

    def __init__(self, channels: int, reflections: int | None = None):
        super().__init__()
        count = channels if reflections is None else reflections
        if count < 1:
            raise ValueError(f"Householder: reflections must be at least 1; got {count}.")
        self.vectors = nn.Parameter(torch.randn(channels, count))

    def matrix(self) -> Tensor:
        """``Q``, ``[C, C]``."""
        v = normalize(self.vectors.to(wide_dtype(self.vectors.dtype)), dim=0)  # 0 stays 0: no reflection
        identity = torch.eye(len(v), dtype=v.dtype, device=v.device)
        inverse_t = (v.mT @ v).triu(1)
        inverse_t.diagonal().add_(0.5)
        return (identity - v @ torch.linalg.solve_triangular(inverse_t, v.mT, upper=True)).to(self.vectors.dtype)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._rotate(x, inverse=False)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._rotate(z, inverse=True)

    def _rotate(self, x: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        with full_precision(x):
            q = self.matrix()
            return ops.invertible_conv1x1(widen(x, q), q.mT if inverse else q, log_abs_det=q.new_zeros(1))

    def extra_repr(self) -> str:
        return f"{self.vectors.shape[0]}, reflections={self.vectors.shape[1]}"
