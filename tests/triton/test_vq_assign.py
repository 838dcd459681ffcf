import pytest
import torch

from genkern.ops.vq_assign import reference, triton


def inputs(groups, outer, features, inner, codes, dtype, mean=0.0):
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(groups, outer, features, inner, generator=generator) + mean).to(dtype)
    return x, (torch.randn(groups, codes, features, generator=generator) + mean).to(dtype)


def assert_same(x, codebook, mask=None, bound=None):
    found = triton.vq_assign(x, codebook, mask, bound, True, codebook.shape[1] > 1, True)
    wanted = reference.vq_assign(*(t.to(triton._triton.wide(t)) for t in (x, codebook)), mask, bound, True,
                                 codebook.shape[1] > 1, True)  # fmt: skip
    for i, (a, b) in enumerate(zip(found, wanted, strict=True)):
        assert a.dtype == b.dtype and a.shape == b.shape, i
        if i in (1, 3):
            torch.testing.assert_close(a, b)
        else:
            assert torch.equal(a, b), i


@pytest.mark.parametrize("shape", [(1, 70, 5, 1, 70), (2, 3, 40, 7, 9), (1, 2, 3, 1, 1)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_launcher_finds_what_the_definition_finds(shape, dtype):
    assert_same(*inputs(*shape, dtype))


def test_far_from_the_origin_the_code_is_that_of_float64():
    assert_same(*inputs(1, 33, 8, 1, 50, torch.bfloat16, mean=100.0))


def test_float64_masks_and_strides():
    x, codebook = inputs(1, 2, 6, 9, 12, torch.float64)
    mask = (torch.arange(18).reshape(2, 9) % 3 != 0).to(torch.uint8)
    assert torch.equal(
        triton.vq_assign(x, codebook, mask, None, False, False, True)[4],
        reference.vq_assign(x, codebook, mask, None, False, False, True)[4],
    )
    assert_same(*inputs(1, 9, 6, 2, 12, torch.float32), mask=mask.view(9, 2), bound=torch.tensor(9.0).double())
    x, codebook = inputs(1, 9, 6, 4, 12, torch.float32)
    assert_same(x.transpose(1, 3)[:, ::2], codebook)


def test_of_equal_codes_the_lowest_wins():
    x, codebook = inputs(1, 20, 4, 1, 6, torch.float32)
    twice = torch.cat([codebook, codebook], dim=1)
    index, _, second, *_ = triton.vq_assign(x, twice, None, None, False, True, False)
    assert torch.equal(second, index + 6) and int(index.max()) < 6
