"""`VectorQuantize` with the arguments, returns and state of the class of that name in vector-quantize-pytorch."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, normalize

from .codebook import Codebook, Usage, unit
from .routing import rotate_to, straight_through

# options that need the matrix of distances, or a network of the codes: their only value here
UNSUPPORTED = {
    "affine_param": False,
    "affine_param_batch_decay": 0.99,
    "affine_param_codebook_decay": 0.9,
    "codebook_diversity_loss_weight": 0.0,
    "codebook_diversity_temperature": 100.0,
    "commitment_use_cross_entropy_loss": False,
    "directional_reparam": False,
    "directional_reparam_variance": 5e-3,
    "in_place_codebook_optimizer": None,
    "manual_in_place_optimizer_update": False,
    "sample_codebook_temp": 1.0,
    "stochastic_sample_codes": False,
    "straight_through": False,
    "sync_affine_param": False,
    "vq_bridge": None,
}


class LossBreakdown(NamedTuple):
    """The terms of the loss, before their weights."""

    commitment: Tensor
    codebook_diversity: Tensor
    orthogonal_reg: Tensor
    inplace_optimize: Tensor


class VectorQuantize(nn.Module):
    """Replaces vectors by their nearest codes: ``(quantized, indices, loss)``.

    A drop-in for the class of this name in vector-quantize-pytorch: the same arguments, returns and state dict, without
    the matrix of distances. What differs: the rotation trick does not change the value (a vector of 0 gives its code,
    not 0); several processes have the codebook of one; which vectors revive dead codes follows from ``_codebook.key``
    and not from the global generator. ``last_usage`` holds perplexity and used fraction of the last training step.

    Args:
        dim: features of the input.
        codebook_size: codes.
        codebook_dim: features of a code; where ``heads * codebook_dim`` is not ``dim``, linear layers lead in and out.
        heads: codes for each vector, each for a slice of its features.
        separate_codebook_per_head: a codebook for each of them.
        decay, eps: of the moving averages.
        freeze_codebook: never update.
        kmeans_init, kmeans_iters: Lloyd's algorithm on the first batch.
        sync_kmeans, sync_codebook: False keeps statistics of several processes apart.
        use_cosine_sim: vectors and codes of length 1.
        layernorm_after_project_in: between the first linear layer and the codebook.
        threshold_ema_dead_code: moving count below which a code is replaced.
        channel_last: False for ``[B, D, N]``.
        accept_image_fmap, accept_3d_fmap: maps ``[B, D, H, W]`` or ``[B, D, T, H, W]``, read as they lie.
        commitment_weight: of the commitment term.
        orthogonal_reg_weight, orthogonal_reg_active_codes_only, orthogonal_reg_max_codes: of the regulariser of
            Shin et al. 2021 (arXiv:2112.00384), which makes the codebook a parameter.
        rotation_trick: None: where ``dim > 1``; False: straight through.
        ema_update, manual_ema_update: update by moving averages, or leave `Codebook.update_ema` to the caller.
        learnable_codebook: a parameter, learnt by the commitment term.
        sync_update_v: how much of the gradient of the output reaches a learnable codebook.
        return_zeros_for_masked_padding: else masked places keep their input.
        route_gradients_to_input: False: none.
        unsupported: options of the peer that need every distance; anything but their default is refused.

    Raises:
        ValueError: for an option that is not supported, or that contradicts another.
    """

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        codebook_dim: int | None = None,
        heads: int = 1,
        separate_codebook_per_head: bool = False,
        decay: float = 0.8,
        eps: float = 1e-5,
        freeze_codebook: bool = False,
        kmeans_init: bool = False,
        kmeans_iters: int = 10,
        sync_kmeans: bool = True,
        use_cosine_sim: bool = False,
        layernorm_after_project_in: bool = False,
        threshold_ema_dead_code: float = 0,
        channel_last: bool = True,
        accept_image_fmap: bool = False,
        accept_3d_fmap: bool = False,
        commitment_weight: float = 1.0,
        orthogonal_reg_weight: float = 0.0,
        orthogonal_reg_active_codes_only: bool = False,
        orthogonal_reg_max_codes: int | None = None,
        rotation_trick: bool | None = None,
        sync_codebook: bool | None = None,
        ema_update: bool | None = None,
        manual_ema_update: bool = False,
        learnable_codebook: bool | None = None,
        sync_update_v: float = 0.0,
        return_zeros_for_masked_padding: bool = True,
        route_gradients_to_input: bool = True,
        **unsupported: Any,
    ):
        super().__init__()
        for name, value in unsupported.items():
            if name not in UNSUPPORTED:
                raise TypeError(f"VectorQuantize: there is no argument {name!r}.")
            _check(value == UNSUPPORTED[name], name, f"{UNSUPPORTED[name]!r}, the only value supported", value)
        ema_update = True if ema_update is None else ema_update
        learnable_codebook = bool(learnable_codebook)
        _check(not (ema_update and learnable_codebook), "ema_update", "False with learnable_codebook", ema_update)
        _check(not (use_cosine_sim and learnable_codebook), "use_cosine_sim", "False with learnable_codebook", True)
        _check(0 <= sync_update_v <= 1, "sync_update_v", "in [0, 1]", sync_update_v)
        _check(not sync_update_v or learnable_codebook, "sync_update_v", "0 without learnable_codebook", sync_update_v)
        _check(not (accept_image_fmap and accept_3d_fmap), "accept_3d_fmap", "False with accept_image_fmap", True)

        codebook_dim = dim if codebook_dim is None else codebook_dim
        inner = codebook_dim * heads
        self.has_projections = inner != dim
        self.project_in: nn.Module = nn.Identity()
        self.project_out: nn.Module = nn.Identity()
        if self.has_projections:
            linear = nn.Linear(dim, inner)
            self.project_in = nn.Sequential(linear, nn.LayerNorm(inner)) if layernorm_after_project_in else linear
            self.project_out = nn.Linear(inner, dim)

        self.dim, self.codebook_size, self.heads = dim, codebook_size, heads
        self.separate_codebook_per_head = separate_codebook_per_head and heads > 1
        self.freeze_codebook, self.use_cosine_sim, self.learnable_codebook = (
            freeze_codebook, use_cosine_sim, learnable_codebook,
        )  # fmt: skip
        self.channel_last, self.accept_image_fmap, self.accept_3d_fmap = channel_last, accept_image_fmap, accept_3d_fmap
        self.commitment_weight, self.orthogonal_reg_weight = commitment_weight, orthogonal_reg_weight
        self.orthogonal_reg_active_codes_only = orthogonal_reg_active_codes_only
        self.orthogonal_reg_max_codes = orthogonal_reg_max_codes
        self.rotation_trick = dim > 1 if rotation_trick is None else rotation_trick
        self.sync_update_v, self.route_gradients_to_input = sync_update_v, route_gradients_to_input
        self.return_zeros_for_masked_padding = return_zeros_for_masked_padding
        self._codebook = Codebook(
            codebook_dim, codebook_size, heads=heads if self.separate_codebook_per_head else 1, decay=decay, eps=eps,
            kmeans_init=kmeans_init, kmeans_iters=kmeans_iters, threshold_ema_dead_code=threshold_ema_dead_code,
            use_cosine_sim=use_cosine_sim, learnable_codebook=learnable_codebook or orthogonal_reg_weight > 0,
            ema_update=ema_update, manual_ema_update=manual_ema_update,
            sync=False if sync_codebook is False or not sync_kmeans else None,
        )  # fmt: skip
        self.last_usage: Usage | None = None

    # -- codes --------------------------------------------------------------------------------------------------

    @property
    def ema_update(self) -> bool:
        return self._codebook.ema_update

    @property
    def codebook(self) -> Tensor:
        """``[K, D]``, or ``[heads, K, D]`` where each head has its own."""
        return self._codebook.embed if self.separate_codebook_per_head else self._codebook.embed[0]

    @codebook.setter
    def codebook(self, codes: Tensor) -> None:
        with torch.no_grad():
            self._codebook.embed.copy_(codes if self.separate_codebook_per_head else codes.unsqueeze(0))

    @property
    def _features_first(self) -> bool:
        return self.accept_image_fmap or self.accept_3d_fmap or not self.channel_last

    def get_codes_from_indices(self, indices: Tensor) -> Tensor:
        """Codes of indices ``[B, *]`` (``[B, *, heads]``), with features last, or first where the input has them so."""
        codes = self._codebook.gather(indices)
        if self.heads > 1 and not self.separate_codebook_per_head:
            codes = codes.flatten(-2)
        return codes.movedim(-1, 1) if self._features_first else codes

    def get_output_from_indices(self, indices: Tensor) -> Tensor:
        """What ``forward`` gives for vectors with these indices, in evaluation."""
        codes = self.get_codes_from_indices(indices)
        if not self._features_first:
            return self.project_out(codes)
        return self.project_out(codes.movedim(1, -1)).movedim(-1, 1)

    # -- quantising ---------------------------------------------------------------------------------------------

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        lens: Tensor | None = None,
        freeze_codebook: bool | None = None,
        return_loss_breakdown: bool = False,
    ) -> tuple[Any, ...]:
        """Quantises ``[B, N, D]``, ``[B, D]``, or in the layout that the constructor named.

        Args:
            mask: bool ``[B, N]``, True where there is a vector; or ``lens``, ``[B]``: how many of each sample.
            freeze_codebook: None: as the constructor says.
            return_loss_breakdown: also return a `LossBreakdown`.

        Returns:
            ``quantized`` like ``x``; ``indices``, int64, ``[B, N]`` (``[B, H, W]``, ``[B]``, with heads last), -1 where
            masked; the ``loss``, a scalar, 0 in evaluation.
        """
        only_one = x.dim() == 2
        _check(mask is None or lens is None, "lens", "None where there is a mask", "both")
        if lens is not None:
            mask = torch.arange(x.shape[1 if self.channel_last else 2], device=x.device) < lens[:, None]
        keep, is_map = mask, self.accept_image_fmap or self.accept_3d_fmap
        _check(mask is None or not (only_one or is_map), "mask", "None for maps and single vectors", "a mask")
        dim = 1 if self._features_first and not only_one else x.dim() - 1
        original = x
        if self.has_projections:  # features last, as linear layers want them
            x = self.project_in(x.movedim(dim, -1))
            inner_dim = x.dim() - 1
        else:
            inner_dim = dim
        if self.heads > 1:  # features of a head side by side
            x = x.unflatten(inner_dim, (self.heads, -1))
            if self.use_cosine_sim:
                x = unit(x, inner_dim + 1)
            if self.separate_codebook_per_head:
                x = x.flatten(inner_dim, inner_dim + 1)
            else:
                mask = None if mask is None else mask.unsqueeze(inner_dim).expand_as(x.select(inner_dim + 1, 0))
                inner_dim += 1
        elif self.use_cosine_sim:
            x = unit(x, inner_dim)
        freeze = self.freeze_codebook if freeze_codebook is None else freeze_codebook
        quantized, indices, self.last_usage = self._codebook(x, dim=inner_dim, mask=mask, freeze=freeze)
        if self.heads > 1 and not self.separate_codebook_per_head:
            indices = indices.movedim(inner_dim - 1, -1)

        zero = torch.zeros((), device=x.device)
        loss, terms = zero, LossBreakdown(zero, zero, zero, zero)
        codes = quantized if self.learnable_codebook and not freeze else quantized.detach()
        quantized = quantized.to(x.dtype)
        if self.training:
            loss, terms = self._losses(x, codes, indices, mask, inner_dim)
            if x.requires_grad and self.route_gradients_to_input:
                quantized = self._route(x, quantized, inner_dim)
            if self.sync_update_v:
                quantized = quantized + self.sync_update_v * (codes - codes.detach()).to(quantized.dtype)

        if self.heads > 1 and not self.separate_codebook_per_head:
            quantized = quantized.flatten(inner_dim - 1, inner_dim)
        if self.has_projections:
            quantized = self.project_out(quantized).movedim(-1, dim)
        if keep is not None:
            elsewhere = torch.zeros_like(original) if self.return_zeros_for_masked_padding else original
            quantized = quantized.where(keep.bool().unsqueeze(dim), elsewhere)
        result = (quantized, indices, loss)
        return (*result, terms) if return_loss_breakdown else result

    def _route(self, x: Tensor, quantized: Tensor, dim: int) -> Tensor:
        if not self.rotation_trick:
            return straight_through(x, quantized)
        if not self.separate_codebook_per_head:
            return rotate_to(x, quantized, dim)
        x, quantized = (t.unflatten(dim, (self.heads, -1)) for t in (x, quantized))  # each head turns by itself
        return rotate_to(x, quantized, dim + 1).flatten(dim, dim + 1)

    def _losses(
        self, x: Tensor, codes: Tensor, indices: Tensor, mask: Tensor | None, dim: int
    ) -> tuple[Tensor, LossBreakdown]:
        zero = torch.zeros((), device=x.device)
        loss, commitment, orthogonal = zero, zero, zero
        if self.commitment_weight > 0:
            if mask is None:
                commitment = mse_loss(codes, x.to(codes.dtype))
            else:
                keep = mask.bool().unsqueeze(dim)
                squares = (codes - x).where(keep, 0).square().sum()
                commitment = squares / (keep.sum() * x.shape[dim]).clamp(min=1)
            loss = loss + self.commitment_weight * commitment
        if self.orthogonal_reg_weight > 0:
            orthogonal = self._orthogonality(indices)
            loss = loss + self.orthogonal_reg_weight * orthogonal
        return loss, LossBreakdown(commitment, zero, orthogonal, zero)

    def _orthogonality(self, indices: Tensor) -> Tensor:
        codes: Tensor = self._codebook.embed
        if self.orthogonal_reg_active_codes_only:
            _check(
                not self.separate_codebook_per_head,
                "orthogonal_reg_active_codes_only",
                "False with several codebooks",
                True,
            )
            used = indices.unique()
            codes = codes[:, used[used >= 0]]
        most = self.orthogonal_reg_max_codes
        if most is not None and codes.shape[1] > most:
            codes = codes[:, torch.randperm(codes.shape[1], device=codes.device)[:most]]
        directions = normalize(codes, dim=-1, eps=1e-6)
        heads, count = codes.shape[:2]
        return (directions @ directions.mT).square().sum() / (heads * count**2) - 1 / count


def _check(condition: bool, argument: str, wanted: str, came: Any) -> None:
    if not condition:
        raise ValueError(f"VectorQuantize: {argument} must be {wanted}; got {came}.")
