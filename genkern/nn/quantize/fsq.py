"""Finite scalar quantisation: every feature is bounded and rounded to a few levels, without a codebook."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class FSQ(nn.Module):
    r"""Rounds feature :math:`i` to one of :math:`L_i` levels: ``(quantized, indices)``.

    .. math:: y = \mathrm{round}\!\left(\tanh(z + s)\, \tfrac{(L - 1)(1 + \epsilon)}{2} - o\right) \Big/
              \lfloor L / 2 \rfloor, \qquad s = \operatorname{artanh}\tfrac{2 o}{(L - 1)(1 + \epsilon)}

    with :math:`o = 1/2` for even L, else 0; gradients pass the rounding straight. Always in float32 or wider: bfloat16
    cannot hold the levels' sums. A drop-in for the class of this name in vector-quantize-pytorch, in arguments, returns
    and weights; codebooks of more than 2^31 codes have int64 indices.

    Args:
        levels: of each feature, :math:`L`.
        dim: features of the input; None: one for each level and codebook. Others are led in and out by linear layers.
        num_codebooks: quantisers side by side.
        keep_num_codebooks_dim: indices have a last dimension of them; None: where there are several.
        channel_first: ``[B, D, *]``, as maps always are.
        projection_has_bias: of the linear layers.
        return_indices: else None in their place.
        preserve_symmetry: levels at :math:`2 k / (L - 1) - 1`, k < L (Parker et al. 2024, arXiv:2411.19842).
        bound_hard_clamp: clamp instead of tanh.

    Mentzer et al. 2023 (arXiv:2309.15505), section 3 and appendix A.1.
    """

    _levels: Tensor
    _basis: Tensor

    def __init__(
        self,
        levels: Sequence[int],
        dim: int | None = None,
        num_codebooks: int = 1,
        keep_num_codebooks_dim: bool | None = None,
        channel_first: bool = False,
        projection_has_bias: bool = True,
        return_indices: bool = True,
        preserve_symmetry: bool = False,
        bound_hard_clamp: bool = False,
    ):
        super().__init__()
        levels = list(levels)
        if not levels or any(level < (2 if preserve_symmetry else 3) for level in levels):
            raise ValueError(f"FSQ: levels must be 3 or more (2 with preserve_symmetry); got {levels}.")
        keep = num_codebooks > 1 if keep_num_codebooks_dim is None else keep_num_codebooks_dim
        if num_codebooks > 1 and not keep:
            raise ValueError("FSQ: keep_num_codebooks_dim must be True with several codebooks; got False.")
        self.codebook_size, self.codebook_dim = math.prod(levels), len(levels)
        self.num_codebooks, self.keep_num_codebooks_dim = num_codebooks, keep
        self.channel_first, self.return_indices = channel_first, return_indices
        self.preserve_symmetry, self.bound_hard_clamp = preserve_symmetry, bound_hard_clamp
        self.index_dtype = torch.int32 if self.codebook_size <= 2**31 else torch.int64
        self.register_buffer("_levels", torch.tensor(levels), persistent=False)
        basis = torch.tensor([math.prod(levels[:i]) for i in range(len(levels))])
        self.register_buffer("_basis", basis, persistent=False)
        inner = self.codebook_dim * num_codebooks
        self.dim = inner if dim is None else dim
        self.has_projections = self.dim != inner
        linear, bias = self.has_projections, projection_has_bias
        self.project_in = nn.Linear(self.dim, inner, bias=bias) if linear else nn.Identity()
        self.project_out = nn.Linear(inner, self.dim, bias=bias) if linear else nn.Identity()

    @property
    def implicit_codebook(self) -> Tensor:
        """All codes in the order of their indices, ``[codebook_size, len(levels)]``."""
        return self._codes(torch.arange(self.codebook_size, device=self._levels.device))

    def quantize(self, z: Tensor) -> Tensor:
        """Vectors ``[*, len(levels)]`` to codes in [-1, 1], in float32 or wider."""
        z = z.to(torch.promote_types(z.dtype, torch.float32))
        levels = self._levels.to(z.dtype)
        if self.preserve_symmetry:
            bounded = z.clamp(-1, 1) if self.bound_hard_clamp else z.tanh()
            scaled = (levels - 1) * (bounded + 1) / 2 + 0.5
            return (scaled + (scaled.floor() - scaled).detach()) * (2 / (levels - 1)) - 1
        half = (levels - 1) * (1 + 1e-3) / 2
        offset = torch.where(self._levels % 2 == 0, 0.5, 0.0).to(z.dtype)
        if self.bound_hard_clamp:
            bounded = (z + offset / half).clamp(-1, 1)
        else:
            bounded = (z + (offset / half).atanh()).tanh()
        bounded = bounded * half - offset
        return (bounded + (bounded.round() - bounded).detach()) / (self._levels // 2)

    def codes_to_indices(self, codes: Tensor) -> Tensor:
        """Codes ``[*, len(levels)]`` to indices ``[*]``."""
        if self.preserve_symmetry:
            digits = (codes + 1) * (self._levels - 1) / 2
        else:
            digits = codes * (self._levels // 2) + self._levels // 2
        return (digits.round().long() * self._basis).sum(-1).to(self.index_dtype)

    def _codes(self, indices: Tensor) -> Tensor:
        digits = self.indices_to_level_indices(indices)
        if self.preserve_symmetry:
            return digits * (2.0 / (self._levels - 1)) - 1.0
        half = self._levels // 2
        return (digits - half) / half

    def indices_to_level_indices(self, indices: Tensor) -> Tensor:
        """Indices ``[*]`` to the level of each feature, ``[*, len(levels)]``."""
        return (indices.unsqueeze(-1) // self._basis) % self._levels

    def indices_to_codes(self, indices: Tensor) -> Tensor:
        """What ``forward`` gives for vectors with these indices."""
        is_map = indices.dim() >= 3 + int(self.keep_num_codebooks_dim)
        codes = self._codes(indices)
        codes = self.project_out(codes.flatten(-2) if self.keep_num_codebooks_dim else codes)
        return codes.movedim(-1, 1) if is_map or self.channel_first else codes

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor | None]:
        """Quantises ``[B, N, D]`` or maps ``[B, D, *]``.

        Returns:
            ``quantized`` like ``z``; indices, int32 (int64 for more than 2^31 codes), ``[B, N]`` or ``[B, *]``.
        """
        first = self.channel_first or z.dim() >= 4
        z = z.movedim(1, -1) if first else z
        if z.shape[-1] != self.dim:
            raise ValueError(f"FSQ: z must have {self.dim} features; got {list(z.shape)}.")
        z = self.project_in(z).unflatten(-1, (self.num_codebooks, -1))
        codes = self.quantize(z)
        indices = self.codes_to_indices(codes) if self.return_indices else None
        out = self.project_out(codes.flatten(-2).to(z.dtype))
        out = out.movedim(-1, 1) if first else out
        if indices is not None and not self.keep_num_codebooks_dim:
            indices = indices.squeeze(-1)
        return out, indices
