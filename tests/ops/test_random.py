import math

import numpy as np
import pytest
import torch
from torch.utils.checkpoint import checkpoint

from genkern import _C, random
from genkern.ops.random import reference

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SHAPES = [(1, 4096), (7, 3), (200, 1), (130, 2), (65, 4), (9, 5), (3, 1000), (70, 77), (2, 256), (3, 257), (5, 2, 3, 4),
          (0, 4), (4, 0), (), (6,)]  # fmt: skip
DRAWS = [random.normal, random.uniform]

# Random123's kat_vectors for philox4x32-10: counter, key, words
KNOWN = [
    ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, 2**64 - 1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), 0x299F31D0A4093822,
     (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
]  # fmt: skip


def numpy_words(key, samples, elements):
    """Philox4x32-10 once more, in numpy's own unsigned arithmetic; words [4, N] of elements of samples."""
    counter = [elements // 4, np.zeros_like(elements), samples, samples >> np.uint64(32)]
    mask = np.uint64(0xFFFFFFFF)
    x, y, z, w = (word.astype(np.uint64) & mask for word in counter)
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    for _ in range(10):
        p0, p1 = x * np.uint64(0xD2511F53), z * np.uint64(0xCD9E8D57)
        x, y, z, w = (
            (p1 >> np.uint64(32)) ^ y ^ np.uint64(k0),
            p1 & mask,
            (p0 >> np.uint64(32)) ^ w ^ np.uint64(k1),
            p0 & mask,
        )
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return np.stack([x, y, z, w]).astype(np.uint32)


def numpy_normal(key, samples, elements):
    f = np.float32
    words = numpy_words(key, samples, elements)
    front = elements % 4 < 2
    radius, angle = np.where(front, words[0], words[2]), np.where(front, words[1], words[3])
    u = ((radius >> 1).astype(f) + f(0.5)) * f(2.0**-31)
    bits = u.view(np.int32) - np.int32(0x3F3504F3)
    k, m = (bits >> 23).astype(f), ((bits & 0x007FFFFF) + np.int32(0x3F3504F3)).view(f) - f(1)
    p = f(7.0376836292e-2)
    for c in (-1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1, 2.0000714765e-1,
              -2.4999993993e-1, 3.3333331174e-1):  # fmt: skip
        p = p * m + f(c)
    r = np.sqrt(f(-2) * ((m + (p * m - f(0.5)) * (m * m)) + k * f(0.69314718056)))
    t = (angle << 2).view(np.int32).astype(f) * f(3.6572951981e-10)
    z = t * t
    sine = ((f(-1.9515295891e-4) * z + f(8.3321608736e-3)) * z - f(1.6666654611e-1)) * z * t + t
    cosine = (f(2.443315711809948e-5) * z - f(1.388731625493765e-3)) * z + f(4.166664568298827e-2)
    cosine = cosine * (z * z) - f(0.5) * z + f(1)
    cosine = np.where(angle >> 31, -cosine, cosine)
    odd, swap = elements % 2 == 1, (angle >> 30) & 1 == 1
    return r * np.where(odd != swap, sine, cosine)


def grid(samples, elements, offset=0):
    rows, columns = np.mgrid[offset : offset + samples, 0:elements]
    return rows.ravel().astype(np.uint64), columns.ravel().astype(np.uint64)


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_philox_gives_the_published_words(counter, key, words):
    assert _C.philox(key, np.array([counter], np.uint32)).tolist() == [list(words)]
    signed = torch.tensor(key - 2**64 if key >= 2**63 else key)
    assert tuple(int(word) for word in reference.philox(signed, *map(torch.tensor, counter))) == words


@pytest.mark.parametrize("key", [0, 42, 2**63 + 5])
def test_cpp_reference_and_numpy_agree_in_every_bit(key):
    rows, columns = grid(33, 301, offset=2**32 - 16)
    expected = numpy_normal(key, rows, columns)
    assert np.array_equal(_C.normal_at(key, rows, columns), expected)
    drawn = random.normal(random.key(key), (33, 301), sample_offset=2**32 - 16)
    assert np.array_equal(drawn.numpy().ravel(), expected)
    defined = random.normal(random.key(key), (33, 301), sample_offset=2**32 - 16, impl="torch")
    assert torch.equal(drawn, defined)


@pytest.mark.parametrize("level", [1, 3, 4])
@pytest.mark.parametrize(("samples", "elements"), [(1, 1030), (70, 1), (70, 2), (70, 3), (70, 4), (70, 5), (9, 261)])
def test_every_instruction_set_draws_the_same_bits(level, samples, elements):
    if level > _C.simd_level():
        pytest.skip(f"this machine runs level {_C.simd_level()}")
    for fill, at in ((_C.normal_fill, _C.normal_at), (_C.uniform_fill, _C.uniform_at)):
        offset = 2**32 - 3
        assert np.array_equal(
            fill(7, samples, elements, offset, level).ravel(), at(7, *grid(samples, elements, offset))
        )


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_kernel_and_definition_agree_in_every_bit(draw, dtype):
    for shape in SHAPES:
        for offset in (0, 2**32 - 3, 2**40):
            kernel = draw(random.key(3), shape, dtype=dtype, sample_offset=offset)
            assert kernel.shape == torch.Size(shape) and kernel.dtype == dtype and kernel.is_contiguous()
            assert torch.equal(kernel, draw(random.key(3), shape, dtype=dtype, sample_offset=offset, impl="torch"))


@pytest.mark.parametrize("draw", DRAWS)
def test_a_batch_drawn_in_parts_is_the_batch(draw):
    key = random.key(5)
    whole = draw(key, (60, 3, 5, 7))
    parts = [draw(key, (n, 3, 5, 7), sample_offset=start) for start, n in ((0, 1), (1, 30), (31, 29))]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("draw", DRAWS)
def test_an_element_does_not_depend_on_how_many_others_there_are(draw):
    key = random.key(5)
    long = draw(key, (40, 600))
    for elements in (1, 2, 3, 4, 5, 255, 256, 257, 599):
        assert torch.equal(draw(key, (40, elements)), long[:, :elements])


@pytest.mark.parametrize("shape", [(3, 99_991), (100_003, 3), (4001, 53)])
def test_noise_does_not_depend_on_the_number_of_threads(shape):
    threads = torch.get_num_threads()
    try:
        drawn = []
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            drawn.append(random.normal(random.key(1), shape))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("dtype", DTYPES)
def test_other_dtypes_are_the_float32_numbers_rounded(dtype):
    wide = random.normal(random.key(9), (300, 200))
    assert torch.equal(random.normal(random.key(9), (300, 200), dtype=dtype), wide.to(dtype))
    uniform = random.uniform(random.key(9), (300, 200), dtype=dtype)
    assert (uniform > 0).all() and (uniform < 1).all()
    below_one = 1 - torch.finfo(dtype).eps / 2
    assert torch.equal(uniform, random.uniform(random.key(9), (300, 200)).clamp(max=below_one).to(dtype))


def test_counters_do_not_wrap_at_32_bits():
    rows, columns = np.zeros(8, np.uint64), np.arange(8, dtype=np.uint64)
    near = _C.normal_at(1, rows, columns)
    for step in (2**31, 2**32, 2**33):  # elements of one sample: up to 2^34
        assert not np.isin(_C.normal_at(1, rows, columns + np.uint64(step)), near).any()
    for step in (2**31, 2**32, 2**33, 2**62):
        drawn = random.normal(random.key(1), (4, 8), sample_offset=step)
        assert np.array_equal(drawn.numpy().ravel(), numpy_normal(1, *grid(4, 8, step)))
        assert not np.isin(drawn.numpy(), near).any()


def test_normal_numbers_are_within_rounding_of_box_muller_in_float64():
    rows, columns = grid(64, 1024)
    words = numpy_words(11, rows, columns)
    front, odd = columns % 4 < 2, columns % 2 == 1
    radius, angle = np.where(front, words[0], words[2]), np.where(front, words[1], words[3])
    u = ((radius >> 1).astype(np.float32) + np.float32(0.5)).astype(np.float64) * 2.0**-31
    t = (angle << 2).view(np.int32) * (math.pi / 2 * 2.0**-32)
    cosine = np.where(angle >> 31, -np.cos(t), np.cos(t))
    exact = np.sqrt(-2 * np.log(u)) * np.where(odd != ((angle >> 30) & 1 == 1), np.sin(t), cosine)
    assert np.abs(_C.normal_at(11, rows, columns) - exact).max() < 1e-6


def test_the_extreme_words_give_finite_numbers():
    words = torch.tensor([0, 1, 2**30, 2**31 - 1, 2**31, 2**32 - 128, 2**32 - 1])
    radius, angle = torch.meshgrid(words, words, indexing="ij")
    a, b = reference.box_muller(radius, angle)
    assert torch.isfinite(a).all() and torch.isfinite(b).all()
    assert 6.6 < torch.hypot(a, b).max() < 6.67
    uniform = reference.to_uniform(words)
    assert uniform.min() == 2.0**-24 and uniform.max() == 1 - 2.0**-24


def ks_distance(values, cdf):
    ordered = values.double().flatten().sort().values
    n = ordered.numel()
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    return max((steps[1:] - cdf(ordered)).max().item(), (cdf(ordered) - steps[:-1]).max().item()) * math.sqrt(n)


@pytest.mark.parametrize("shape", [(512, 2048), (2**18, 1), (2**18, 3)])
def test_the_distributions_are_normal_and_uniform(shape):
    normal, uniform = random.normal(random.key(123), shape), random.uniform(random.key(123), shape)
    assert ks_distance(normal, lambda x: torch.special.ndtr(x)) < 1.95  # exceeded once in 1000
    assert ks_distance(uniform, lambda x: x) < 1.95
    x, n = normal.double(), normal.numel()
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)):
        assert abs(x.pow(power).mean() - moment) < 4 * math.sqrt(variance / n)


def test_neighbours_are_uncorrelated():
    x = random.normal(random.key(4), (1024, 1024)).double()
    other = random.normal(random.key(5), (1024, 1024)).double()
    for a, b in ((x[:, 1:], x[:, :-1]), (x[1:], x[:-1]), (x[:, 4:], x[:, :-4]), (x, other), (x**2, other**2),
                 (x[:, 1:] ** 2, x[:, :-1] ** 2)):  # fmt: skip
        correlation = torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]
        assert abs(correlation) < 4 / math.sqrt(a.numel())


def test_keys_of_steps_are_distinct_and_give_unrelated_noise():
    key = random.key(0)
    keys = torch.cat([random.fold_in(key, torch.arange(-5000, 5000)), random.split(key, 5000), key.reshape(1)])
    assert keys.unique().numel() == keys.numel()
    first, second = (random.normal(random.fold_in(key, step), (64, 64)) for step in (0, 1))
    assert not (first == second).any()
    assert random.fold_in(random.fold_in(key, 1), 2) != random.fold_in(random.fold_in(key, 2), 1)


def test_fold_in_takes_ints_and_tensors_alike():
    key = random.key(77)
    for number in (0, 1, -1, 2**40, -(2**63), 2**63 - 1):
        derived = random.fold_in(key, number)
        assert derived == random.fold_in(key, torch.tensor(number))
        assert derived == reference.random_fold_in(key, torch.tensor(number), reference.FOLD_IN)
    assert random.fold_in(key, 2**64 - 1) == random.fold_in(key, -1)
    assert random.fold_in(random.split(key, 3), torch.arange(2)[:, None]).shape == (2, 3)
    assert torch.equal(random.split(key, 5)[:2], random.split(key))


def test_keys_come_from_generators():
    torch.manual_seed(1)
    first, second = random.key_from(), random.key_from()
    torch.manual_seed(1)
    assert first != second and first == random.key_from()
    own = [random.key_from(torch.Generator().manual_seed(8)) for _ in range(2)]
    assert own[0] == own[1] and own[0].dtype == torch.int64 and own[0].shape == ()
    assert (torch.stack([random.key_from() for _ in range(64)]) < 0).any()  # all 64 bits


def test_checkpointing_replays_the_noise():
    def noisy(x):
        return x * random.normal(random.key_from(), (4, 5))

    x = torch.ones(4, 5, requires_grad=True)
    y = checkpoint(noisy, x, use_reentrant=False)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())


def test_compiled_code_draws_the_eager_noise_in_one_graph():
    def sample(key, step, n):
        noise = random.normal(random.fold_in(key, step), (n, 3, 5))
        return noise + random.uniform(random.split(key)[0], (n, 3, 5), sample_offset=2, impl="torch")

    compiled = torch.compile(sample, fullgraph=True, backend="aot_eager")
    for step, n in ((0, 4), (1, 4), (7, 6), (2**40, 7)):
        assert torch.equal(compiled(random.key(0), step, n), sample(random.key(0), step, n))


def test_compiled_code_draws_the_eager_keys():
    def sample(x):
        first, second = random.key_from(), random.key_from()
        return x + random.normal(first, (3, 4)), x + random.normal(second, (3, 4))

    compiled = torch.compile(sample, fullgraph=True, backend="inductor")
    torch.manual_seed(3)
    expected = sample(torch.zeros(3, 4))
    torch.manual_seed(3)
    drawn = compiled(torch.zeros(3, 4))
    assert torch.equal(drawn[0], expected[0]) and torch.equal(drawn[1], expected[1])
    assert not torch.equal(drawn[0], drawn[1])


def test_vmap_over_keys_inside_compiled_code_is_refused_with_words():
    compiled = torch.compile(torch.vmap(lambda key: random.normal(key, (3,))), fullgraph=True, backend="aot_eager")
    with pytest.raises(Exception, match="torch.vmap over keys inside torch.compile is not implemented"):
        compiled(random.split(random.key(0)))


def test_ops_pass_opcheck():
    key, ops = random.key(0), torch.ops.genkern
    for op in (ops.random_normal, ops.random_uniform):
        for shape in ((3, 5), (0, 4), (2, 1)):
            torch.library.opcheck(op.default, (key, *shape, torch.bfloat16, 7))
    torch.library.opcheck(ops.random_fold_in.default, (random.split(key, 3), torch.arange(3), 1))
    torch.library.opcheck(ops.random_draw_key.default, (torch.device("cpu"),), test_utils="test_schema")


@pytest.mark.parametrize("draw", DRAWS)
def test_under_vmap_every_key_draws_its_own_noise(draw):
    keys = random.split(random.key(0), 4)
    lanes = torch.vmap(lambda key: draw(random.fold_in(key, 1), (3, 5)))(keys)
    assert torch.equal(lanes, torch.stack([draw(random.fold_in(key, 1), (3, 5)) for key in keys]))
    steps = torch.vmap(lambda step: draw(random.fold_in(keys[0], step), (3,)))(torch.arange(3))
    assert torch.equal(steps[2], draw(random.fold_in(keys[0], 2), (3,)))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: random.normal(torch.tensor(1.0), (2,)), TypeError,
         "normal: key must be an int64 tensor; got torch.float32."),
        (lambda: random.normal(3, (2,)), TypeError, "normal: key must be an int64 tensor; got int."),
        (lambda: random.uniform(torch.arange(2), (2,)), ValueError,
         "uniform: key must be one key, of shape []; got [2]."),
        (lambda: random.normal(random.key(0), (2, -1)), ValueError,
         "normal: shape must be without negative sizes; got [2, -1]."),
        (lambda: random.normal(random.key(0), (2,), dtype=torch.int32), TypeError,
         "normal: dtype must be float32, float64, bfloat16 or float16; got torch.int32."),
        (lambda: random.normal(random.key(0), (2,), sample_offset=-1), ValueError,
         "normal: sample_offset must be in [0, 2^63 - samples); got -1."),
        (lambda: random.normal(random.key(0), (2,), impl="fast"), ValueError,
         "normal: impl must be 'auto' or 'torch'; got 'fast'."),
        (lambda: random.key(2**64), ValueError, "key: seed must be in [-2^63, 2^64); got 18446744073709551616."),
        (lambda: random.key(0.5), TypeError, "key: seed must be an int; got float."),
        (lambda: random.fold_in(random.key(0), torch.tensor(0.5)), TypeError,
         "fold_in: data must be an int64 tensor; got torch.float32."),
        (lambda: random.split(random.key(0), 0), ValueError, "split: num must be at least 1; got 0."),
        (lambda: random.key_from(7), TypeError, "key_from: generator must be a torch.Generator; got int."),
    ],
)  # fmt: skip
def test_errors_name_the_function_the_argument_and_what_came(call, error, words):
    with pytest.raises(error) as caught:
        call()
    assert words in str(caught.value)
