"""Lookup-free quantisation: a code is the signs of the features, and its entropies factorise."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, normalize, softplus


class LFQReturn(NamedTuple):
    quantized: Tensor
    indices: Tensor
    entropy_aux_loss: Tensor


class LFQLossBreakdown(NamedTuple):
    per_sample_entropy: Tensor
    batch_entropy: Tensor
    commitment: Tensor


def binary_entropy(logits: Tensor) -> Tensor:
    """Of bits that are 1 with probability sigmoid(logits), in nats; finite, as its gradient, for any logits."""
    magnitude = logits.abs()
    return softplus(-magnitude) + magnitude * torch.sigmoid(-magnitude)


def code_distribution(probabilities: Tensor) -> Tensor:
    """The mean over N of the products of d independent bits: ``[N, d]`` to ``[2^d]``, the first bit the highest.

    A product of d bits is one of the halves' products, so the mean is a matrix product of these: no ``[N, 2^d]``.
    """
    bits = probabilities.shape[1]

    def products(p: Tensor) -> Tensor:  # [N, b] -> [N, 2^b]
        table = p.new_ones(len(p), 1)
        for bit in p.unbind(1):
            pair = torch.stack([1 - bit, bit], dim=1)  # [N, 2]
            table = (table.unsqueeze(2) * pair.unsqueeze(1)).flatten(1)
        return table

    high, low = products(probabilities[:, : bits // 2]), products(probabilities[:, bits // 2 :])
    return (high.T @ low).flatten() / max(len(probabilities), 1)


def code_entropies(logits: Tensor) -> tuple[Tensor, Tensor]:
    r"""The mean entropy of the codes of each vector, and the distribution of codes over all of them.

    .. math:: \mathbb E\, H(p(\cdot \mid x)) = \mathbb E \sum_i H_2(\sigma(l_i)), \qquad
              \bar p = \mathbb E\, p(\cdot \mid x)

    Args:
        logits: of the bits being 1, ``[N, d]``.
    """
    return binary_entropy(logits).sum(1).sum() / max(len(logits), 1), code_distribution(logits.sigmoid())


class LFQ(nn.Module):
    r"""Replaces every feature by its sign: ``(quantized, indices, entropy_aux_loss)``, of ``2^d`` codes.

    .. math:: L = w \left(\mathbb E\, H(p(\cdot \mid x)) - \gamma H(\mathbb E\, p(\cdot \mid x))\right), \qquad
              p(c \mid x) \propto e^{2 \tau\, x \cdot c}

    Both entropies are exact and never need a vector's ``2^d`` probabilities: bits are independent given x. A drop-in
    for the class of this name in vector-quantize-pytorch, in arguments, returns and weights.

    Args:
        dim: features of the input; None: those of the codes. Others are led in and out by linear layers.
        codebook_size: a power of two, :math:`2^d`; None: ``2 ** dim``.
        entropy_loss_weight, diversity_gamma: :math:`w` and :math:`\gamma`.
        commitment_loss_weight: of the squared distance to the code.
        straight_through_activation: of the vector whose gradient passes.
        num_codebooks: quantisers side by side.
        keep_num_codebooks_dim: indices have a last dimension of them; None: where there are several.
        codebook_scale: codes are ``±codebook_scale``.
        has_projections, projection_has_bias: linear layers in and out; None: where sizes differ.
        soft_clamp_input_value: bounds the input by a tanh.
        channel_first: ``[B, D, *]``; None: where there are four dimensions or more.
        spherical: vectors and codes of length ``codebook_scale`` (Zhao et al. 2024, arXiv:2406.07548).

    Yu et al. 2023 (arXiv:2310.05737), section 3.1.
    """

    mask: Tensor

    def __init__(
        self,
        *,
        dim: int | None = None,
        codebook_size: int | None = None,
        entropy_loss_weight: float = 0.1,
        commitment_loss_weight: float = 0.0,
        diversity_gamma: float = 1.0,
        straight_through_activation: nn.Module | None = None,
        num_codebooks: int = 1,
        keep_num_codebooks_dim: bool | None = None,
        codebook_scale: float = 1.0,
        has_projections: bool | None = None,
        projection_has_bias: bool = True,
        soft_clamp_input_value: float | None = None,
        channel_first: bool | None = None,
        spherical: bool = False,
    ):
        super().__init__()
        if dim is None and codebook_size is None:
            raise ValueError("LFQ: dim must be given where codebook_size is not; got None.")
        codebook_size = 2**dim if codebook_size is None else codebook_size  # type: ignore[operator]
        bits = codebook_size.bit_length() - 1
        if codebook_size != 2**bits or bits < 1:
            raise ValueError(f"LFQ: codebook_size must be a power of two; got {codebook_size}.")
        keep = num_codebooks > 1 if keep_num_codebooks_dim is None else keep_num_codebooks_dim
        if num_codebooks > 1 and not keep:
            raise ValueError("LFQ: keep_num_codebooks_dim must be True with several codebooks; got False.")
        if soft_clamp_input_value is not None and soft_clamp_input_value < codebook_scale:
            raise ValueError(
                f"LFQ: soft_clamp_input_value must be {codebook_scale} or more; got {soft_clamp_input_value}."
            )
        inner = bits * num_codebooks
        self.codebook_size, self.codebook_dim, self.dim = codebook_size, bits, inner if dim is None else dim
        self.num_codebooks, self.keep_num_codebooks_dim = num_codebooks, keep
        self.entropy_loss_weight, self.diversity_gamma = entropy_loss_weight, diversity_gamma
        self.commitment_loss_weight, self.codebook_scale = commitment_loss_weight, codebook_scale
        self.soft_clamp_input_value = soft_clamp_input_value
        self.channel_first, self.spherical = channel_first, spherical
        self.activation = straight_through_activation or nn.Identity()
        self.has_projections = self.dim != inner if has_projections is None else has_projections
        linear = self.has_projections
        self.project_in = nn.Linear(self.dim, inner, bias=projection_has_bias) if linear else nn.Identity()
        self.project_out = nn.Linear(inner, self.dim, bias=projection_has_bias) if linear else nn.Identity()
        self.register_buffer("mask", 2 ** torch.arange(bits - 1, -1, -1))

    @property
    def magnitude(self) -> float:
        """Of a feature of a code."""
        return self.codebook_scale / math.sqrt(self.codebook_dim) if self.spherical else self.codebook_scale

    @property
    def codebook(self) -> Tensor:
        """All codes in the order of their indices, ``[2^d, d]``."""
        return self._codes(torch.arange(self.codebook_size, device=self.mask.device))

    def _codes(self, indices: Tensor) -> Tensor:
        bits = (indices.unsqueeze(-1).long() & self.mask) != 0
        return bits.float() * (2 * self.magnitude) - self.magnitude

    def indices_to_codes(self, indices: Tensor, project_out: bool = True) -> Tensor:
        """What ``forward`` gives for vectors with these indices."""
        is_map = indices.dim() >= 3 + int(self.keep_num_codebooks_dim)
        first = is_map if self.channel_first is None else self.channel_first
        codes = self._codes(indices if self.keep_num_codebooks_dim else indices.unsqueeze(-1)).flatten(-2)
        codes = self.project_out(codes) if project_out else codes
        return codes.movedim(-1, 1) if first else codes

    def forward(
        self, x: Tensor, inv_temperature: float = 100.0, return_loss_breakdown: bool = False, mask: Tensor | None = None
    ) -> LFQReturn | tuple[LFQReturn, LFQLossBreakdown]:
        r"""Quantises ``[B, N, D]`` or maps ``[B, D, *]``.

        Args:
            inv_temperature: :math:`\tau`.
            mask: bool ``[B, N]``: the vectors that the losses see.
        """
        first = x.dim() >= 4 if self.channel_first is None else self.channel_first
        x = x.movedim(1, -1) if first else x
        if x.shape[-1] != self.dim:
            raise ValueError(f"LFQ: x must have {self.dim} features; got {list(x.shape)}.")
        places = x.shape[1:-1]
        x = self.project_in(x.flatten(1, -2))
        if self.soft_clamp_input_value is not None:
            x = (x / self.soft_clamp_input_value).tanh() * self.soft_clamp_input_value
        x = x.unflatten(-1, (self.num_codebooks, -1))  # [B, N, codebooks, d]
        dtype, x = x.dtype, x.to(torch.promote_types(x.dtype, torch.float32))
        if self.spherical:
            x = normalize(x, dim=-1) * self.codebook_scale
        quantized = torch.where(x > 0, self.magnitude, -self.magnitude).to(x.dtype)
        indices = ((x > 0) * self.mask).sum(-1)
        zero = x.new_zeros(())
        terms, entropy = LFQLossBreakdown(zero, zero, zero), zero
        out = quantized
        if self.training:
            seen = x if mask is None else x[mask]
            terms = self._terms(seen, quantized if mask is None else quantized[mask], inv_temperature)
            entropy = terms.per_sample_entropy - self.diversity_gamma * terms.batch_entropy
            active = self.activation(x)
            out = active + (quantized - active).detach()
        out = self.project_out(out.to(dtype).flatten(-2)).unflatten(1, places)
        indices = indices.unflatten(1, places)
        indices = indices if self.keep_num_codebooks_dim else indices.squeeze(-1)
        loss = entropy * self.entropy_loss_weight + terms.commitment * self.commitment_loss_weight
        result = LFQReturn(out.movedim(-1, 1) if first else out, indices, loss)
        return (result, terms) if return_loss_breakdown else result

    def _terms(self, x: Tensor, quantized: Tensor, inv_temperature: float) -> LFQLossBreakdown:
        logits = (4 * inv_temperature * self.magnitude) * x.reshape(-1, self.num_codebooks, self.codebook_dim)
        found = [code_entropies(part) for part in logits.unbind(1)]
        per_sample = torch.stack([entropy for entropy, _ in found]).mean()
        mean = across_processes(torch.stack([distribution for _, distribution in found]))
        batch = -torch.xlogy(mean, mean.clamp(min=torch.finfo(mean.dtype).tiny)).sum(1).mean()
        commitment = mse_loss(x, quantized.detach()) if self.commitment_loss_weight > 0 else x.new_zeros(())
        return LFQLossBreakdown(per_sample, batch, commitment)


def across_processes(mean: Tensor) -> Tensor:
    """The mean over all processes, whose gradients flow to each."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return mean
    from torch.distributed.nn.functional import all_reduce

    return all_reduce(mean) / torch.distributed.get_world_size()
