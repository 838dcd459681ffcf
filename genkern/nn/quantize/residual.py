"""Residual vector quantisation: every level quantises what the levels before it left."""

from __future__ import annotations

import random as python_random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ... import random
from .vector_quantize import VectorQuantize


class ResidualVQ(nn.Module):
    r"""Quantises in levels, :math:`r_1 = x,\ r_{i+1} = r_i - q_i(r_i)`: ``(sum of codes, indices, losses)``.

    A drop-in for the class of this name in vector-quantize-pytorch: the same arguments, returns and state dict, but
    without heads, beam search and implicit codebooks.

    Args:
        dim: features of the input.
        num_quantizers: levels; None: as many as there are sizes in ``codebook_size``.
        codebook_size: codes of each level, or of every one.
        codebook_dim: features of a code; linear layers lead in and out where they are not ``dim``.
        shared_codebook: one for all levels.
        quantize_dropout: in training, leave out the levels after a random one, of ``quantize_dropout_cutoff_index`` or
            more, rounded up to a multiple of ``quantize_dropout_multiple_of`` levels.
        accept_image_fmap: maps ``[B, D, H, W]``.
        return_zeros_for_masked_padding: else masked places keep their input.
        quant_grad_frac: how much of the gradient of a code reaches the levels before it.
        vq_kwargs: of every `VectorQuantize`.

    Each level is a call of `genkern.ops.vq_assign`. A kernel of all levels could save residuals and sums, which with
    16k vectors of 64 numbers and 4 levels of 1024 codes are 5 % of the time on one core; 7 % is the gathering of codes.

    Zeghidour et al. 2021 (arXiv:2107.03312), algorithm 1.
    """

    def __init__(
        self,
        *,
        dim: int,
        codebook_size: int | tuple[int, ...],
        num_quantizers: int | None = None,
        codebook_dim: int | None = None,
        shared_codebook: bool = False,
        heads: int = 1,
        quantize_dropout: bool = False,
        quantize_dropout_cutoff_index: int = 0,
        quantize_dropout_multiple_of: int = 1,
        accept_image_fmap: bool = False,
        quant_grad_frac: float = 0.0,
        return_zeros_for_masked_padding: bool = True,
        **vq_kwargs: Any,
    ):
        super().__init__()
        if heads != 1:
            raise ValueError(f"ResidualVQ: heads must be 1; got {heads}.")
        if num_quantizers is None and isinstance(codebook_size, int):
            raise ValueError("ResidualVQ: num_quantizers must be given where codebook_size is one number; got None.")
        sizes = (codebook_size,) * (num_quantizers or 1) if isinstance(codebook_size, int) else tuple(codebook_size)
        if num_quantizers is not None and len(sizes) != num_quantizers:
            raise ValueError(f"ResidualVQ: codebook_size must have {num_quantizers} entries; got {sizes}.")
        if shared_codebook and len(set(sizes)) > 1:
            raise ValueError(f"ResidualVQ: codebook_size must be one number for a shared codebook; got {sizes}.")
        self.num_quantizers, self.codebook_sizes, self.accept_image_fmap = len(sizes), sizes, accept_image_fmap
        self.codebook_dim = dim if codebook_dim is None else codebook_dim
        self.has_projections = self.codebook_dim != dim
        self.project_in = nn.Linear(dim, self.codebook_dim) if self.has_projections else nn.Identity()
        self.project_out = nn.Linear(self.codebook_dim, dim) if self.has_projections else nn.Identity()
        self.quantize_dropout = quantize_dropout and len(sizes) > 1
        self.quantize_dropout_cutoff_index = quantize_dropout_cutoff_index
        self.quantize_dropout_multiple_of = quantize_dropout_multiple_of
        self.quant_grad_frac, self.shared_codebook = quant_grad_frac, shared_codebook
        self.return_zeros_for_masked_padding = return_zeros_for_masked_padding
        if shared_codebook:
            vq_kwargs["manual_ema_update"] = True
        self.layers = nn.ModuleList(
            VectorQuantize(
                dim=self.codebook_dim, codebook_size=size, accept_image_fmap=accept_image_fmap,
                return_zeros_for_masked_padding=return_zeros_for_masked_padding, **vq_kwargs,
            )
            for size in sizes
        )  # fmt: skip
        if shared_codebook:
            for layer in self._levels()[1:]:
                layer._codebook = self._levels()[0]._codebook

    def _levels(self) -> list[VectorQuantize]:
        return [layer for layer in self.layers if isinstance(layer, VectorQuantize)]

    @property
    def codebook_size(self) -> int:
        return self.codebook_sizes[0]

    @property
    def codebooks(self) -> Tensor | tuple[Tensor, ...]:
        """``[levels, K, D]``; a tuple where sizes differ."""
        found = tuple(layer.codebook for layer in self._levels())
        return torch.stack(found) if len(set(self.codebook_sizes)) == 1 else found

    def get_codes_from_indices(self, indices: Tensor) -> Tensor:
        """Codes of every level, ``[levels, B, *, D]``, of indices ``[B, *, levels]``; 0 for -1 and missing levels."""
        given = indices.shape[-1]
        if given < self.num_quantizers:
            if not self.quantize_dropout:
                raise ValueError(f"ResidualVQ: indices must have {self.num_quantizers} levels; got {given}.")
            indices = pad(indices, (0, self.num_quantizers - given), value=-1)
        codes = [layer._codebook.gather(i) for layer, i in zip(self._levels(), indices.unbind(-1), strict=True)]
        return torch.stack(codes).where(indices.movedim(-1, 0).unsqueeze(-1) >= 0, 0)

    def get_output_from_indices(self, indices: Tensor) -> Tensor:
        """The sum of the codes, features last."""
        return self.project_out(self.get_codes_from_indices(indices).sum(0))

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        return_all_codes: bool = False,
        freeze_codebook: bool = False,
        rand_quantize_dropout_fixed_seed: int | None = None,
    ) -> tuple[Tensor, ...]:
        """Quantises ``[B, N, D]`` or maps ``[B, D, H, W]``.

        Returns:
            ``quantized`` like ``x``; indices ``[B, N, levels]`` or ``[B, H, W, levels]``, -1 for levels left out and
            where masked; losses ``[levels]``; with ``return_all_codes`` also the codes of every level.
        """
        original = x
        x = self.project_in(x)
        quantized, residual = torch.zeros_like(x), x
        kept = self._kept(rand_quantize_dropout_fixed_seed)
        indices: list[Tensor] = []
        losses: list[Tensor] = []
        for layer in self.layers[:kept]:
            code, index, loss = layer(residual, mask=mask, freeze_codebook=freeze_codebook)
            detached = code.detach()
            passed = self.quant_grad_frac
            taken = passed * code + (1 - passed) * detached if passed else detached
            in_place = bool(indices) and not torch.is_grad_enabled()  # fresh memory costs more than the difference
            residual = residual.sub_(taken) if in_place else residual - taken
            quantized = quantized.add_(code)
            indices.append(index)
            losses.append(loss)
        missing = self.num_quantizers - kept
        indices += [torch.full_like(indices[0], -1)] * missing
        losses += [torch.zeros_like(losses[0])] * missing
        if self.training and self.shared_codebook and self._levels()[0].ema_update and not freeze_codebook:
            self._levels()[0]._codebook.update_ema()
        out = self.project_out(quantized)
        if mask is not None:
            elsewhere = torch.zeros_like(out) if self.return_zeros_for_masked_padding else original
            out = out.where(mask.bool().unsqueeze(-1), elsewhere)
        result = (out, torch.stack(indices, dim=-1), torch.stack(losses))
        return (*result, self.get_codes_from_indices(result[1])) if return_all_codes else result

    def _kept(self, seed: int | None) -> int:
        """How many levels to use: the same in all processes, for it follows from the first codebook's key and step."""
        if not (self.training and self.quantize_dropout):
            return self.num_quantizers
        first, multiple = self.quantize_dropout_cutoff_index, self.quantize_dropout_multiple_of
        if seed is None:
            codebook = self._levels()[0]._codebook
            seed = int(random.fold_in(random.fold_in(codebook.key, codebook.step), 1))
        last = python_random.Random(seed).randrange(first, self.num_quantizers)
        kept = last + 1
        return min(self.num_quantizers, -(-kept // multiple) * multiple)
