"""Sparse causal attention: patterns of a stride, factored so that every part is dense attention among few tokens."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import pad, scaled_dot_product_attention

BACKENDS = ("auto", "factored", "flex")
PATTERNS = ("dense", "local", "strided", "block", "summary")


def sparse_attention(q: Tensor, k: Tensor, v: Tensor, pattern: str, stride: int, summaries: int = 1) -> Tensor:
    r"""Scaled dot-product attention of each token to some of the tokens before it, and to itself where they say so.

    ============= ============================================================================
    ``pattern``   token ``i`` attends to all ``j <= i`` with
    ============= ============================================================================
    ``"dense"``   no condition
    ``"local"``   :math:`i - j \le l`; with ``"strided"``, the strided pattern
    ``"strided"`` :math:`(i - j) \bmod l = 0`
    ``"block"``   :math:`\lfloor i / l \rfloor = \lfloor j / l \rfloor`; with ``"summary"``, the fixed pattern
    ``"summary"`` :math:`j \bmod l \ge l - c`; zero where there is no such token
    ============= ============================================================================

    Blocks, a block with the one before it, every l-th token: each is reached by a reshape, so that what runs is dense
    attention of ``T l`` or ``T (T / l)`` pairs by PyTorch's own kernels, and trains on every device.

    Args:
        q, k, v: ``[B, heads, T, D]``.
        pattern: one of the above.
        stride: ``l``; any, also one that does not divide ``T``.
        summaries: ``c``, how many tokens at the end of each block the summary pattern reads.

    Returns:
        ``[B, heads, T, D]``.

    Raises:
        ValueError: for an unknown pattern, or a stride or number of summaries out of range.

    Child et al. 2019 (arXiv:1904.10509), section 4.2-4.3.

    >>> q = torch.randn(2, 4, 64, 8)
    >>> sparse_attention(q, q, q, "strided", 8).shape
    torch.Size([2, 4, 64, 8])
    """
    _check(pattern, stride, summaries)
    if pattern == "dense":
        return scaled_dot_product_attention(q, k, v, is_causal=True)
    batch, heads, tokens, width = q.shape
    blocks = -(-tokens // stride)
    extra = blocks * stride - tokens  # tokens at the end, which nobody before them sees

    def tiled(x: Tensor) -> Tensor:
        return pad(x, (0, 0, 0, extra)).reshape(batch * heads, blocks, stride, width)

    q, k, v = tiled(q), tiled(k), tiled(v)
    if pattern == "block":
        out = scaled_dot_product_attention(q, k, v, is_causal=True)
    elif pattern == "strided":
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # [B * heads, l, T / l, D]
        out = scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
    elif pattern == "local":
        k, v = (torch.cat([pad(x, (0, 0, 0, 0, 1, 0))[:, :-1], x], dim=2) for x in (k, v))  # the block before, too
        out = scaled_dot_product_attention(q, k, v, attn_mask=_band(blocks, stride, q.device))
    else:
        k, v = (x[:, :, stride - summaries :].flatten(1, 2) for x in (k, v))  # [B * heads, T / l * c, D]
        mask, none = _behind(blocks, stride, summaries, q.device)
        out = scaled_dot_product_attention(q.flatten(1, 2), k, v, attn_mask=mask)
        out = out.masked_fill(none[:, None], 0)
    return out.reshape(batch, heads, blocks * stride, width)[:, :, :tokens]


def _band(blocks: int, stride: int, device: torch.device) -> Tensor:
    """Who sees whom among a block and the one before it, ``[T / l, l, 2 l]``."""
    query, key = torch.arange(stride, device=device)[:, None], torch.arange(-stride, stride, device=device)
    band = (key <= query) & (key >= query - stride)
    first = torch.arange(blocks, device=device) == 0
    return band & ~(first[:, None, None] & (key < 0))


def _behind(blocks: int, stride: int, summaries: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Which summaries a token has behind it, ``[T, T / l * c]``, and whether none (then it may read the first)."""
    positions = torch.arange(blocks * stride, device=device)
    behind = positions[positions % stride >= stride - summaries] <= positions[:, None]
    none = ~behind.any(1)
    behind[:, 0] |= none
    return behind, none


def attention_pattern(pattern: str, tokens: int, stride: int, summaries: int = 1) -> Tensor:
    """Which tokens each one attends to, as a dense mask ``[T, T]``; see `sparse_attention`."""
    _check(pattern, stride, summaries)
    i, j = torch.arange(tokens)[:, None], torch.arange(tokens)
    seen = {
        "dense": i >= j,
        "local": i - j <= stride,
        "strided": (i - j) % stride == 0,
        "block": i // stride == j // stride,
        "summary": (j % stride >= stride - summaries).expand(tokens, -1),
    }
    return seen[pattern] & (j <= i)


def attended(pattern: str, token: int, stride: int, summaries: int = 1) -> Tensor | slice:
    """The tokens that one token attends to, as an index."""
    if pattern == "strided":
        return slice(token % stride, token + 1, stride)
    if pattern == "summary":
        positions = torch.arange(token + 1)
        return positions[positions % stride >= stride - summaries]
    first = {"dense": 0, "local": max(0, token - stride), "block": token // stride * stride}
    return slice(first[pattern], token + 1)


def _check(pattern: str, stride: int, summaries: int) -> None:
    if pattern not in PATTERNS:
        raise ValueError(f"sparse_attention: pattern must be one of {PATTERNS}; got {pattern!r}.")
    if stride < 1 or not 1 <= summaries <= stride:
        raise ValueError(
            f"sparse_attention: stride must be positive, and summaries in [1, stride]; got {stride} and {summaries}."
        )


# -- block-sparse attention, for GPUs ----------------------------------------------------------------------------------


def mask_of(pattern: str, stride: int, summaries: int) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The pattern as a function of token numbers, which `torch.nn.attention.flex_attention` asks for its mask."""

    def mask(batch: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
        seen = j <= i
        if pattern == "local":
            seen = seen & (i - j <= stride)
        elif pattern == "strided":
            seen = seen & ((i - j) % stride == 0)
        elif pattern == "block":
            seen = seen & (i // stride == j // stride)
        elif pattern == "summary":
            seen = seen & (j % stride >= stride - summaries)
        return seen

    return mask


@functools.lru_cache(maxsize=32)
def block_mask(pattern: str, tokens: int, stride: int, summaries: int, device: torch.device) -> Any:
    """Which blocks of the pattern's mask hold anything; of a strided one about half do."""
    return create_block_mask(mask_of(pattern, stride, summaries), None, None, tokens, tokens, device=device)


@functools.cache
def _compiled_flex() -> Callable[..., Any]:
    return torch.compile(flex_attention, dynamic=False)


def flex_sparse_attention(q: Tensor, k: Tensor, v: Tensor, pattern: str, stride: int, summaries: int = 1) -> Tensor:
    """`sparse_attention` by `torch.nn.attention.flex_attention`, which skips blocks of the matrix without a pair.

    On CUDA compiled, with derivatives; on the CPU PyTorch has its values alone.
    """
    _check(pattern, stride, summaries)
    mask = block_mask(pattern, q.shape[2], stride, summaries, q.device)
    attend: Any = _compiled_flex() if q.is_cuda and not torch.compiler.is_compiling() else flex_attention
    out = attend(q, k, v, block_mask=mask)
    assert isinstance(out, Tensor)
    return out


def suits_flex(q: Tensor, pattern: str) -> bool:
    """Whether to go by blocks: on CUDA, for patterns that leave most blocks empty, at widths that it takes."""
    width = q.shape[-1]
    return q.is_cuda and pattern in ("local", "block") and width >= 16 and width & (width - 1) == 0


class Cache(NamedTuple):
    """Keys and values of all tokens so far, ``[B, heads, T, D]`` each."""

    k: Tensor
    v: Tensor


class SparseSelfAttention(nn.Module):
    """Multi-head causal self-attention, whose heads are shared out evenly among patterns.

    Args:
        width: of a token; a multiple of ``heads``.
        heads: how many; a multiple of the number of patterns.
        patterns: such as ``("local", "strided")`` or ``("block", "summary")``; see `sparse_attention`.
        stride: l, near the square root of the number of tokens; for pictures, the tokens of a row.
        summaries: c.
        backend: ``"factored"``, dense attention after reshapes; ``"flex"``, block-sparse; ``"auto"``, flex on CUDA
            where most blocks are empty (local and block; strided and summary leave few so), else factored.

    Child et al. 2019 (arXiv:1904.10509), section 4.3.

    >>> attention = SparseSelfAttention(32, 4, ("local", "strided"), stride=8)
    >>> attention(torch.randn(2, 64, 32)).shape
    torch.Size([2, 64, 32])
    """

    def __init__(
        self,
        width: int,
        heads: int,
        patterns: tuple[str, ...],
        *,
        stride: int,
        summaries: int = 1,
        backend: str = "auto",
    ):
        super().__init__()
        for pattern in patterns:
            _check(pattern, stride, summaries)
        if not patterns or heads % len(patterns) or width % heads:
            raise ValueError(
                "SparseSelfAttention: width must be a multiple of heads, and heads of the number of patterns;"
                f" got {width}, {heads} and {patterns}."
            )
        if backend not in BACKENDS:
            raise ValueError(f"SparseSelfAttention: backend must be one of {BACKENDS}; got {backend!r}.")
        self.backend = backend
        self.heads, self.patterns, self.stride, self.summaries = heads, patterns, stride, summaries
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, T, width]`` to the same."""
        q, k, v = self._split(self.qkv(x))
        heads = [
            self._function(q, pattern)(q[:, share], k[:, share], v[:, share], pattern, self.stride, self.summaries)
            for share, pattern in self._shares()
        ]
        return self.out(torch.cat(heads, dim=1).transpose(1, 2).flatten(2))

    def _function(self, q: Tensor, pattern: str) -> Callable[..., Tensor]:
        flex = self.backend == "flex" or (self.backend == "auto" and suits_flex(q, pattern))
        return flex_sparse_attention if flex else sparse_attention

    def cache(self, batch: int, tokens: int) -> Cache:
        """Room for the keys and values of so many tokens."""
        weight = self.qkv.weight
        shape = (batch, self.heads, tokens, weight.shape[1] // self.heads)
        return Cache(weight.new_empty(shape), weight.new_empty(shape))

    def decode(self, x: Tensor, token: int, cache: Cache) -> Tensor:
        """The output for token number ``token``, ``[B, width]``, whose keys and values join the cache."""
        q, k, v = self._split(self.qkv(x[:, None]))  # [B, heads, 1, D]
        cache.k[:, :, token], cache.v[:, :, token] = k[:, :, 0], v[:, :, 0]
        heads = []
        for share, pattern in self._shares():
            seen = attended(pattern, token, self.stride, self.summaries)
            keys, values = cache.k[:, share, seen], cache.v[:, share, seen]
            some = keys.shape[2] > 0
            heads.append(scaled_dot_product_attention(q[:, share], keys, values) if some else 0 * q[:, share])
        return self.out(torch.cat(heads, dim=1).flatten(1))

    def _shares(self) -> list[tuple[slice, str]]:
        """Which heads follow each pattern."""
        size = self.heads // len(self.patterns)
        return [(slice(i * size, (i + 1) * size), pattern) for i, pattern in enumerate(self.patterns)]

    def _split(self, qkv: Tensor) -> list[Tensor]:
        """Queries, keys and values, ``[B, heads, T, D]``."""
        return [t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in qkv.chunk(3, dim=2)]
