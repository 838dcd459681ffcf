"""Generating Long Sequences with Sparse Transformers. Child et al. 2019 (arXiv:1904.10509).

A picture as a sequence of its sub-pixels, R, G, B of each pixel in raster order, read by a transformer whose heads
attend to a few tokens each: those just before and every l-th (strided), or those of the same row and the last ones of
every row before (fixed). Trained with distribution augmentation, it is told at the start of the sequence how the
picture was transformed (Jun et al. 2020), and likelihoods and samples are those of untransformed pictures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ... import random
from ...nn import SparseSelfAttention
from ...nn.autoregressive import Progress
from ...nn.autoregressive.attention import Cache
from .._base import Batch, Loss, as_batch
from ._base import AutoregressiveModel, check_picture
from .distaug import DistAug

PATTERNS = {"strided": ("local", "strided"), "fixed": ("block", "summary"), "dense": ("dense",)}
METHODS = ("auto", "cached")


@dataclass(frozen=True)
class Config:
    shape: tuple[int, ...] = (3, 32, 32)
    levels: int | None = 256
    classes: int | None = None
    attention: str = "strided"  # or "fixed", "dense"
    summaries: int = 8  # c of the fixed pattern; the stride l is a row
    layers: int = 128
    width: int = 256  # d
    heads: int = 2
    dropout: float = 0.25
    augmentations: tuple[str, ...] = ()  # types of DistAug: "rotation", "transposition", "colours", "jigsaw"
    unaugmented: float = 0.5  # share of the training pictures that stay as they are
    move_positions: bool = False  # a sub-pixel that an augmentation moves keeps the embedding of its place
    recompute: bool = True  # keep the input of each block alone for the backward pass (section 5.4)

    def __post_init__(self) -> None:
        if self.attention not in PATTERNS:
            raise ValueError(f"SparseTransformer: attention must be one of {tuple(PATTERNS)}; got {self.attention!r}.")


class SigmoidGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    """Attention and a perceptron, each after a normalisation and added to its input (equations 12-15)."""

    def __init__(self, config: Config):
        super().__init__()
        width, row = config.width, config.shape[0] * config.shape[2]
        self.attention = SparseSelfAttention(
            width, config.heads, PATTERNS[config.attention], stride=row, summaries=min(config.summaries, row)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        last = nn.Linear(4 * width, width)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), SigmoidGELU(), last)
        self.dropout = nn.Dropout(config.dropout)
        for linear in (self.attention.out, last):  # a small share of each of the 2N residual branches
            nn.init.normal_(linear.weight, std=0.125 / math.sqrt(linear.in_features * 2 * config.layers))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.norms[0](x)))
        return x + self.dropout(self.perceptron(self.norms[1](x)))

    def decode(self, x: Tensor, token: int, cache: Cache) -> Tensor:
        """One token, ``[B, width]``, after those whose keys and values are in the cache."""
        x = x + self.attention.decode(self.norms[0](x), token, cache)
        return x + self.perceptron(self.norms[1](x))


class SparseTransformer(AutoregressiveModel):
    config_class = Config

    def __init__(self, config: Config):
        super().__init__(config)
        check_picture("SparseTransformer", config)
        channels, height, width = config.shape
        self.tokens = channels * height * width
        self.pixels = nn.Embedding(config.levels or 2, config.width)
        self.start = nn.Parameter(0.02 * torch.randn(config.width))
        self.by_class = nn.Embedding(config.classes, config.width) if config.classes else None
        self.augment = DistAug(config.shape, config.augmentations, config.unaugmented)
        self.by_augmentation = nn.ModuleList(nn.Embedding(n, config.width) for n in self.augment.counts)
        self.rows = nn.Embedding(height, config.width)
        self.columns = nn.Embedding(width, config.width)
        self.channels = nn.Embedding(channels, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.levels or 2)
        for embedding in self.modules():
            if isinstance(embedding, nn.Embedding):
                nn.init.normal_(embedding.weight, std=0.02)
        nn.init.zeros_(self.head.weight)  # a new model is uniform

    # -- sequences ----------------------------------------------------------------------------------------------

    def sequence(self, x: Tensor) -> Tensor:
        """Pictures ``[B, C, H, W]`` as tokens ``[B, T]``: raster order, colours innermost."""
        return x.permute(0, 2, 3, 1).flatten(1)

    def begin(self, n: int, y: Tensor | None, ids: Tensor | None) -> Tensor:
        """The start token, ``[B, width]``, which says of which kind the picture is: class, and augmentations."""
        start = self.start.expand(n, -1)
        if y is not None and self.by_class is not None:
            start = start + self.by_class(y.long())
        for t, embedding in enumerate(self.by_augmentation):
            start = start + embedding(start.new_zeros((), dtype=torch.long) if ids is None else ids[:, t])
        return start

    def positions(self, ids: Tensor | None) -> Tensor:
        """Embeddings of the place of every token that is predicted, ``[1 or B, T, width]``."""
        sites = self.rows.weight[:, None] + self.columns.weight  # [H, W, width]
        table = (self.channels.weight[:, None, None] + sites).flatten(0, 2)  # in the order of the picture
        index = torch.arange(self.tokens, device=table.device).view(1, *self.config.shape)
        if ids is not None and self.config.move_positions:
            index = self.augment(index.expand(len(ids), *self.config.shape), ids)
        return table[self.sequence(index)]

    def augmented_logits(self, x: Tensor, y: Tensor | None, ids: Tensor | None) -> Tensor:
        """`logits` of pictures that were transformed as ``ids``, ``[B, types]``, say; None: not at all."""
        channels, height, width = self.config.shape
        start = self.begin(len(x), y, ids)[:, None]
        before = self.pixels(self.sequence(x).long()[:, :-1])
        h = torch.cat([start, before], dim=1) + self.positions(ids)  # [B, T, width]
        for block in self.blocks:
            recompute = self.config.recompute and self.training and torch.is_grad_enabled()
            h = checkpoint(block, h, use_reentrant=False) if recompute else block(h)
        logits = self.head(self.norm(h))  # [B, T, levels]
        return logits.view(len(x), height, width, channels, -1).permute(0, 4, 3, 1, 2)

    # -- the protocol -------------------------------------------------------------------------------------------

    def logits(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return self.augmented_logits(x, y, None)

    def loss(self, batch: Batch | Tensor, *, key: Tensor | None = None, sample_offset: int = 0) -> Loss:
        """Mean negative log-likelihood in bits per dimension; in training with augmentations, of augmented pictures."""
        if not (self.training and self.config.augmentations):
            return super().loss(batch, key=key, sample_offset=sample_offset)
        x, y = as_batch(batch)
        y = None if self.config.classes is None else y
        self._check(x, y)
        if self.config.classes is not None and y is None:
            raise ValueError("SparseTransformer: y must be labels, since augmented training has classes; got None.")
        if key is None:
            key = random.key(int(torch.randint(2**62, ())), device=x.device)
        ids = self.augment.draw(len(x), key=key, sample_offset=sample_offset)
        x = self.augment(x, ids)
        nats = -self.conditional_log_prob(self.augmented_logits(x, y, ids), x).flatten(1).sum(1).mean()
        bits_per_dim = nats / (self.tokens * math.log(2))
        return Loss(bits_per_dim, {"nats": nats.detach(), "bits_per_dim": bits_per_dim.detach()})

    def sample_with(
        self,
        noise: Tensor,
        x: Tensor,
        free: Tensor,
        y: Tensor | None,
        *,
        temperature: float,
        method: str,
        progress: Progress | None = None,
    ) -> Tensor:
        """`sample` of given noise; ``"cached"`` (the default) takes one token at a time, and keeps keys and values."""
        if method not in METHODS:
            return super().sample_with(noise, x, free, y, temperature=temperature, method=method, progress=progress)
        training, channels, width = self.training, self.config.shape[0], self.config.shape[2]
        self.eval()
        x, keep = x.clone(), ~free
        blocks = [block for block in self.blocks if isinstance(block, Block)]
        caches = [block.attention.cache(len(x), self.tokens) for block in blocks]
        positions = self.positions(None)[0]
        h = self.begin(len(x), y, None)
        for token in range(self.tokens):
            c, i, j = token % channels, token // (channels * width), token // channels % width
            h = h + positions[token]
            for block, cache in zip(blocks, caches, strict=True):
                h = block.decode(h, token, cache)
            if not bool(keep[i, j]):
                logits = self.head(self.norm(h))[:, :, None, None, None]  # [B, levels, 1, 1, 1]
                x[:, c, i, j] = self.draw(logits, noise[:, c, i, j].view(-1, 1, 1, 1), temperature).flatten()
            h = self.pixels(x[:, c, i, j].long())
            if progress is not None:
                progress(token + 1, self.tokens)
        self.train(training)
        return x


PRESETS = {
    "sparse-transformer": Config(),  # CIFAR-10 of table 1: 59M parameters
    "sparse-transformer-distaug": Config(augmentations=("rotation", "transposition", "colours", "jigsaw")),
    "sparse-transformer-mnist": Config((1, 28, 28), attention="fixed", layers=6, width=64, heads=4, dropout=0.1),
    "sparse-transformer-small": Config((1, 8, 8), levels=17, layers=4, width=64, heads=4, dropout=0.1, recompute=False),
    "sparse-transformer-small-distaug": Config(
        (1, 8, 8),
        levels=17,
        layers=4,
        width=64,
        heads=4,
        dropout=0.1,
        augmentations=("rotation", "transposition", "jigsaw"),
        recompute=False,
    ),
}
