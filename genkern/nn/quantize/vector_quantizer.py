"""Vector quantisation as a layer: the codebook, its loss, and the gradient that passes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from .codebook import Codebook, unit
from .routing import rotate_to, straight_through

LEARNING = ("ema", "gradient")


class Quantized(NamedTuple):
    """What `VectorQuantizer` returns."""

    quantized: Tensor  # like x
    indices: Tensor  # int64, the shape of x without its features
    loss: Tensor  # scalar
    perplexity: Tensor | None  # of this batch's codes, in training
    usage: Tensor | None  # the fraction of the codes that this batch uses, in training


class VectorQuantizer(nn.Module):
    r"""Replaces every vector by the nearest of K codes, and learns these.

    .. math:: L = \lVert \mathrm{sg}(x) - c \rVert^2 + \beta \lVert x - \mathrm{sg}(c) \rVert^2

    (means over elements), without the first term where moving averages move the codes. The codes used are those from
    before the update. Statistics of several processes are those of one; see `Codebook`.

    Args:
        dim: features of a vector, D.
        codebook_size: K.
        codebook: ``"ema"`` or ``"gradient"``.
        beta: weight of the commitment term.
        legacy: weigh the codebook term with beta instead, as some published code does by mistake.
        decay: of the moving averages.
        eps: of the smoothing of counts.
        rotation_trick: gradients turn with the vector instead of passing straight through.
        threshold: codes whose moving count falls below are revived (0: never).
        kmeans_init: start from k-means of the first batch.
        cosine: compare directions; then vectors and codes have length 1.
        dim_of_features: 1 for maps ``[B, D, *]``, -1 for ``[*, D]``.
    """

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        *,
        codebook: str = "ema",
        beta: float = 0.25,
        legacy: bool = False,
        decay: float = 0.99,
        eps: float = 1e-5,
        rotation_trick: bool = False,
        threshold: float = 0.0,
        kmeans_init: bool = False,
        cosine: bool = False,
        dim_of_features: int = 1,
    ):
        super().__init__()
        if codebook not in LEARNING:
            raise ValueError(f"VectorQuantizer: codebook must be one of {LEARNING}; got {codebook!r}.")
        self.beta, self.legacy, self.rotation_trick, self.cosine = beta, legacy, rotation_trick, cosine
        self.dim_of_features = dim_of_features
        self.codebook = Codebook(
            dim, codebook_size, decay=decay, eps=eps, kmeans_init=kmeans_init, threshold_ema_dead_code=threshold,
            use_cosine_sim=cosine, learnable_codebook=codebook == "gradient", ema_update=codebook == "ema",
        )  # fmt: skip

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Quantized:
        dim = self.dim_of_features
        x = unit(x, dim) if self.cosine else x
        codes, index, usage = self.codebook(x, dim=dim, mask=mask)
        if self.cosine and self.codebook.learnable_codebook:
            codes = unit(codes, dim)
        loss = self.loss(x, codes, mask)
        if not x.requires_grad:
            quantized = codes.detach().to(x.dtype)
        elif self.rotation_trick:
            quantized = rotate_to(x, codes.detach(), dim)
        else:
            quantized = straight_through(x, codes.detach())
        if mask is not None:
            quantized = quantized.where(mask.bool().unsqueeze(dim), 0)
        return Quantized(quantized, index, loss, *(usage or (None, None)))

    def loss(self, x: Tensor, codes: Tensor, mask: Tensor | None = None) -> Tensor:
        """The codebook term (where gradients learn the codes) and the commitment term, weighed."""
        if mask is not None:
            keep = mask.bool().unsqueeze(self.dim_of_features)
            x, codes = x.where(keep, 0), codes.where(keep, 0)
        codes = codes.to(torch.promote_types(x.dtype, torch.float32))
        x = x.to(codes.dtype)
        commitment = mse_loss(x, codes.detach())
        weights = (self.beta, 1.0) if self.legacy else (1.0, self.beta)
        if self.codebook.learnable_codebook:
            loss = weights[0] * mse_loss(codes, x.detach()) + weights[1] * commitment
        else:
            loss = self.beta * commitment
        return loss if mask is None else loss * (mask.numel() / mask.sum().clamp(min=1))

    def codes(self, index: Tensor) -> Tensor:
        """The codes of indices ``[B, *]``, in the layout of the layer."""
        codes = self.codebook.gather(index, self.dim_of_features)
        return unit(codes, self.dim_of_features) if self.cosine else codes
