import math

import pytest
import torch
from torch.nn.functional import normalize

from genkern.ops import vq_assign

EVERYTHING = {"distance": True, "second": True, "statistics": True}


def drawn(*shape, dtype=torch.float32, seed=0, mean=0.0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) + mean).to(dtype)


def nearest_in_float64(x, codebook):
    return torch.cat([torch.cdist(part, codebook.double()).argmin(1) for part in x.double().split(2048)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("shape", "codes", "options"),
    [
        ((70, 5), (9, 5), {}),
        ((3, 7, 64), (100, 64), {"metric": "cosine"}),
        ((2, 6, 5, 9), (40, 6), {"dim": 1}),
        ((4, 11, 12), (3, 17, 4), {}),
        ((2, 12, 3, 5), (2, 33, 6), {"dim": 1, "metric": "cosine"}),
        ((5, 1), (2, 1), {}),
        ((300, 130), (70, 130), {}),
    ],
    ids=str,
)
def test_kernel_and_definition_find_the_same(shape, codes, options, dtype):
    x, codebook = drawn(*shape, dtype=dtype), drawn(*codes, dtype=dtype, seed=1)
    mask = torch.ones_like(x.select(options.get("dim", -1), 0), dtype=torch.bool)
    mask.view(-1)[::3] = False
    for keep in (None, mask):
        found = vq_assign(x, codebook, mask=keep, **options, **EVERYTHING)
        wanted = vq_assign(x, codebook, mask=keep, **options, **EVERYTHING, impl="torch")
        for name, value, reference in zip(found._fields, found, wanted, strict=True):
            assert value.dtype == reference.dtype and value.shape == reference.shape, name
            if "distance" in name or (name == "sums" and dtype == torch.float64):
                torch.testing.assert_close(value, reference)
            else:
                assert torch.equal(value, reference), name


@pytest.mark.parametrize("mean", [0.0, 10.0, 100.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_index_is_that_of_float64_arithmetic_far_from_the_origin_too(mean, dtype):
    x, codebook = drawn(4096, 64, dtype=dtype, mean=mean), drawn(1024, 64, dtype=dtype, mean=mean, seed=1)
    assert torch.equal(vq_assign(x, codebook).indices, nearest_in_float64(x, codebook))


def test_a_close_call_is_decided_in_float64():
    """Codes that differ in the last bit, whose scores in float32 are the same or in the wrong order."""
    code = drawn(1, 24, mean=3.0)
    codebook = (code + torch.arange(-20, 21)[:, None] * 2.0**-22).sort(0).values
    x = code + drawn(500, 24, seed=2) * 2.0**-22
    apart = (x.double()[:, None] - codebook.double()).square().sum(-1)
    assert torch.equal(vq_assign(x, codebook).indices, apart.argmin(1))


def test_of_equal_codes_the_lowest_wins():
    codebook = drawn(40, 3).repeat(5, 1)
    found = vq_assign(drawn(300, 3, seed=1), codebook, second=True, distance=True)
    assert int(found.indices.max()) < 40 and torch.equal(found.second, found.indices + 40)
    assert torch.equal(found.distance, found.second_distance)
    halfway = vq_assign(torch.tensor([[0.5], [1.5]]), torch.tensor([[1.0], [0.0], [2.0]]))
    assert halfway.indices.tolist() == [0, 0]


def test_distances_and_statistics_are_those_of_the_indices():
    x, codebook = drawn(500, 7), drawn(60, 7, seed=1)
    found = vq_assign(x, codebook, **EVERYTHING)
    apart = torch.cdist(x.double(), codebook.double()).square()
    torch.testing.assert_close(found.distance.double(), apart.min(1).values)
    torch.testing.assert_close(found.second_distance.double(), apart.topk(2, largest=False).values[:, 1])
    assert torch.equal(found.counts, torch.bincount(found.indices, minlength=60))
    sums = torch.zeros(60, 7).double().index_add_(0, found.indices, x.double())
    assert (found.sums - sums).abs().max() <= 500 * 2.0**-28 * float(x.abs().max())


def test_the_cosine_distance_is_one_minus_the_cosine():
    x, codebook = drawn(50, 6), drawn(9, 6, seed=1)
    found = vq_assign(x, codebook, metric="cosine", distance=True, statistics=True)
    cosine = normalize(x.double()) @ normalize(codebook.double()).T
    assert torch.equal(found.indices, cosine.argmax(1))
    torch.testing.assert_close(found.distance.double(), 1 - cosine.max(1).values, atol=1e-7, rtol=1e-5)
    unit = torch.zeros(9, 6).double().index_add_(0, found.indices, normalize(x).double())
    torch.testing.assert_close(found.sums, unit, atol=1e-6, rtol=0)


def test_sums_of_parts_add_up_to_the_bits_of_the_whole():
    x, codebook = drawn(1000, 16) * torch.logspace(-3, 3, 16), drawn(12, 16, seed=1)
    bound = x.abs().max().double()
    whole = vq_assign(x, codebook, statistics=True)
    for pieces in (2, 7):
        parts = [vq_assign(part, codebook, statistics=True, bound=bound) for part in x.chunk(pieces)]
        assert torch.equal(sum(part.sums for part in parts), whole.sums)
        assert torch.equal(sum(part.counts for part in parts), whole.counts)
    shuffled = vq_assign(x[torch.randperm(1000, generator=torch.Generator().manual_seed(0))], codebook, statistics=True)
    assert torch.equal(shuffled.sums, whole.sums)


def test_threads_and_layouts_change_nothing():
    x, codebook, threads = drawn(3, 8, 16, 16), drawn(50, 8, seed=1), torch.get_num_threads()
    one = vq_assign(x, codebook, dim=1, **EVERYTHING)
    torch.set_num_threads(3)
    try:
        forms = [x, x.contiguous(memory_format=torch.channels_last), torch.stack([x, x], -1)[..., 0], x.mT.clone().mT]
        for form in forms:
            for value, wanted in zip(vq_assign(form, codebook, dim=1, **EVERYTHING), one, strict=True):
                assert torch.equal(value, wanted)
    finally:
        torch.set_num_threads(threads)
    last = vq_assign(x.permute(0, 2, 3, 1).contiguous(), codebook, **EVERYTHING)
    assert all(torch.equal(value, wanted) for value, wanted in zip(last, one, strict=True))


def test_extreme_and_missing_values_give_codes_that_exist():
    codebook = drawn(40, 5)
    x = torch.tensor([[1e30] * 5, [-1e30] * 5, [math.nan] * 5, [math.inf] * 5, [0.0] * 5])
    found = vq_assign(x, codebook, second=True)
    assert ((found.indices >= 0) & (found.indices < 40) & (found.second >= 0) & (found.second < 40)).all()
    apart = (x[:2].double()[:, None] - codebook.double()).square().sum(-1)
    assert torch.equal(found.indices[:2], apart.argmin(1))


def test_empty_batches_and_a_batch_without_a_vector_work():
    found = vq_assign(torch.zeros(0, 3), drawn(4, 3), **EVERYTHING)
    assert found.indices.shape == (0,) and found.counts.tolist() == [0] * 4 and not found.sums.any()
    found = vq_assign(drawn(5, 3), drawn(4, 3), mask=torch.zeros(5, dtype=torch.bool), **EVERYTHING)
    assert found.indices.tolist() == [-1] * 5 and found.counts.tolist() == [0] * 4 and not found.sums.any()


def test_a_masked_vector_cannot_be_seen_in_the_statistics():
    x, mask = drawn(6, 3), torch.tensor([True, True, False, True, True, True])
    wanted = vq_assign(x[mask], drawn(4, 3, seed=1), statistics=True)
    x[2] = math.nan
    found = vq_assign(x, drawn(4, 3, seed=1), mask=mask, statistics=True)
    assert torch.equal(found.sums, wanted.sums) and torch.equal(found.counts, wanted.counts)


def test_it_compiles_whole_and_is_well_formed():
    x, codebook = drawn(2, 9, 6), drawn(5, 6, seed=1)
    torch.library.opcheck(
        torch.ops.genkern.vq_assign.default, (x.view(1, 18, 6, 1), codebook[None], None, None, True, True, True)
    )
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: vq_assign(x, codebook, **EVERYTHING), fullgraph=True, backend="aot_eager")
    for value, wanted in zip(compiled(x), vq_assign(x, codebook, **EVERYTHING), strict=True):
        assert torch.equal(value, wanted)
    lanes = torch.vmap(lambda x: vq_assign(x, codebook).indices)(x)
    assert torch.equal(lanes, vq_assign(x, codebook).indices)


@pytest.mark.parametrize(
    ("x", "codebook", "options", "text"),
    [
        ((5, 3), (4, 2), {}, r"x must be of 2 features in dimension 1; got \[5, 3\] \(codebook is \[4, 2\]\)"),
        ((5, 3), (3,), {}, r"codebook must be \[K, D\] or \[heads, K, D\]"),
        ((5, 3), (0, 3), {}, "codebook must be of at least one code"),
        ((5, 3), (1, 3), {"second": True}, "codebook must be of two codes, where second is"),
        ((5, 3), (4, 3), {"dim": 2}, r"dim must be in \[-2, 2\); got 2"),
        ((5, 3), (4, 3), {"metric": "manhattan"}, "metric must be one of"),
        ((5, 3), (4, 3), {"mask": torch.ones(4, dtype=torch.bool)}, r"mask must be \[5\]; got \[4\]"),
        ((5, 3), (4, 3), {"statistics": True, "bound": torch.zeros(2)}, "bound must be a number"),
    ],
)
def test_errors_name_the_argument(x, codebook, options, text):
    with pytest.raises(ValueError, match=f"vq_assign: {text}"):
        vq_assign(torch.zeros(x), torch.zeros(codebook), **options)


def test_a_mask_of_wide_integers_is_refused():
    """As a byte 256 would be 0."""
    with pytest.raises(TypeError, match="vq_assign: mask must be bool or uint8; got torch.int64"):
        vq_assign(torch.zeros(5, 3), torch.zeros(4, 3), mask=torch.full((5,), 256))
