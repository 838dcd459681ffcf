"""Factored sparse attention is dense attention under a mask of the same pattern, whole and token by token."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.testing import assert_close

from genkern.nn.autoregressive import SparseSelfAttention, attention_pattern, sparse_attention
from genkern.nn.autoregressive.attention import PATTERNS, block_mask, flex_sparse_attention, mask_of


def tokens(count: int, width: int = 5, heads: int = 2, batch: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, heads, count, width, generator=generator, dtype=torch.float64) for _ in range(3)]


def by_dense_mask(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~mask, -torch.inf)
    return torch.where(mask.any(1)[:, None], scores.softmax(-1), 0).nan_to_num() @ v


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize(("count", "stride", "summaries"), [(24, 4, 1), (24, 6, 3), (23, 5, 2), (3, 4, 4), (6, 1, 1)])
def test_factored_attention_equals_dense_attention_under_the_mask(pattern, count, stride, summaries):
    q, k, v = (t.requires_grad_() for t in tokens(count))
    mask = attention_pattern(pattern, count, stride, summaries)
    found, wanted = sparse_attention(q, k, v, pattern, stride, summaries), by_dense_mask(q, k, v, mask)
    assert_close(found, wanted, rtol=0, atol=1e-12)
    grads = torch.autograd.grad(found.sin().sum(), (q, k, v)), torch.autograd.grad(wanted.sin().sum(), (q, k, v))
    for a, b in zip(*grads, strict=True):
        assert_close(a, b, rtol=0, atol=1e-12)


def test_3072_tokens_of_a_row_of_96_equal_masked_attention_in_float32():
    q, k, v = (t.float() for t in tokens(3072, width=16, heads=1, batch=1))
    for pattern in ("local", "strided", "block", "summary"):
        found = sparse_attention(q, k, v, pattern, 96, 8)
        mask = attention_pattern(pattern, 3072, 96, 8)
        some = mask.any(1)
        wanted = scaled_dot_product_attention(q[:, :, some], k, v, attn_mask=mask[some])
        assert_close(found[:, :, some], wanted, rtol=0, atol=2e-6)
        assert not found[:, :, ~some].any()


def test_two_steps_of_either_pattern_reach_every_token_before():
    for pair in (("local", "strided"), ("block", "summary")):
        first, second = (attention_pattern(p, 64, 8).double() for p in pair)
        reached = first + second @ first  # a residual connection passes a step on
        assert torch.equal(reached > 0, torch.ones(64, 64).tril() > 0)


@pytest.mark.parametrize("patterns", [("dense",), ("local", "strided"), ("block", "summary")])
@pytest.mark.parametrize("stride", [4, 5])
def test_decoding_with_a_cache_equals_the_whole_sequence(patterns, stride):
    torch.manual_seed(0)
    attention = SparseSelfAttention(8, 4, patterns, stride=stride, summaries=2).double()
    x = torch.randn(3, 18, 8, dtype=torch.float64)
    cache = attention.cache(3, 18)
    with torch.no_grad():
        steps = torch.stack([attention.decode(x[:, t], t, cache) for t in range(18)], dim=1)
    assert_close(steps, attention(x), rtol=0, atol=1e-12)


def test_what_does_not_fit_is_named():
    q = torch.zeros(1, 2, 4, 4)
    with pytest.raises(ValueError, match="sparse_attention: pattern must be one of .* got 'banded'"):
        sparse_attention(q, q, q, "banded", 2)
    with pytest.raises(ValueError, match=r"summaries in \[1, stride\]; got 2 and 3"):
        sparse_attention(q, q, q, "summary", 2, 3)
    with pytest.raises(ValueError, match=r"width must be a multiple of heads, and heads .* got 8, 3 and"):
        SparseSelfAttention(8, 3, ("local", "strided"), stride=2)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_block_sparse_attention_equals_factored_attention(pattern):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 2, 150, 16) for _ in range(3))  # tokens that fill no block
    assert_close(
        flex_sparse_attention(q, k, v, pattern, 12, 3), sparse_attention(q, k, v, pattern, 12, 3), rtol=1e-5, atol=1e-5
    )
    i, j = torch.arange(150)[:, None], torch.arange(150)
    assert torch.equal(mask_of(pattern, 12, 3)(None, None, i, j), attention_pattern(pattern, 150, 12, 3))


@pytest.mark.parametrize("patterns", [("local", "strided"), ("block", "summary")])
def test_a_layer_gives_the_same_by_both_backends(patterns):
    torch.manual_seed(0)
    layers = [SparseSelfAttention(32, 2, patterns, stride=16, summaries=2, backend=b) for b in ("factored", "flex")]
    layers[1].load_state_dict(layers[0].state_dict())
    x = torch.randn(2, 140, 32)
    with torch.no_grad():
        assert_close(layers[1](x), layers[0](x), rtol=1e-5, atol=1e-5)


def test_blocks_without_a_pair_are_left_out():
    device = torch.device("cpu")
    empty = {pattern: block_mask(pattern, 1024, 32, 1, device).sparsity() for pattern in ("local", "strided")}
    assert empty["local"] > 70 > empty["strided"]  # per cent
