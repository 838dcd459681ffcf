import math

import pytest
import torch

from genkern import random
from genkern.ops import categorical_sample


def drawn(shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype) * 2


@pytest.mark.parametrize(("shape", "dim"), [((3, 17, 2, 5, 4), 1), ((4, 9, 300), -1), ((70, 5), 1)])
@pytest.mark.parametrize("options", [{}, {"temperature": 0.0}, {"temperature": 0.6, "top_k": 3}], ids=str)
def test_kernel_and_definition_draw_the_same(shape, dim, options):
    logits = drawn(shape, torch.float64)
    found = categorical_sample(logits, dim=dim, key=random.key(1), **options)
    wanted = categorical_sample(logits, dim=dim, key=random.key(1), **options, impl="torch")
    assert torch.equal(found[0], wanted[0]) and found[0].dtype == torch.int64
    torch.testing.assert_close(found[1], wanted[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_log_probability_is_that_of_the_softmax(dtype):
    logits = drawn((5, 33, 7), dtype)
    classes, log_prob = categorical_sample(logits, key=random.key(0), temperature=0.5, top_k=4)
    wanted = logits.double().log_softmax(1).gather(1, classes[:, None])[:, 0]
    assert log_prob.dtype == torch.float32
    torch.testing.assert_close(log_prob.double(), wanted, atol=2e-6, rtol=0)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("top_k", [None, 3])
def test_draws_have_the_probabilities_of_the_tempered_and_restricted_softmax(temperature, top_k):
    logits, count = drawn((6,)), 100_000
    classes, _ = categorical_sample(
        logits[None, :, None].expand(1, 6, count), key=random.key(4), temperature=temperature, top_k=top_k
    )
    found = torch.bincount(classes.flatten(), minlength=6) / count
    kept = logits if top_k is None else logits.masked_fill(logits < logits.topk(top_k).values.min(), -math.inf)
    wanted = (kept / temperature).softmax(0)
    assert ((found - wanted).abs() <= 5 * (wanted / count).sqrt()).all()


def test_of_equal_logits_the_first_comes_first():
    logits = torch.tensor([[1.0, 2.0, 2.0, 2.0, 0.0]]).expand(1000, 5)
    assert (categorical_sample(logits, temperature=0.0)[0] == 1).all()
    classes, _ = categorical_sample(logits, top_k=2, key=random.key(0))
    assert set(classes.tolist()) == {1, 2}


@pytest.mark.parametrize("u", [0.0, 1.0 - 2.0**-24])
def test_a_class_of_no_probability_is_never_drawn(u):
    logits = torch.tensor([[-math.inf, 0.3, 1.0, -math.inf]]).expand(40, 4)
    for top_k in (None, 1):
        classes, log_prob = categorical_sample(logits, noise=torch.full((40,), u), top_k=top_k)
        assert ((classes == 1) | (classes == 2)).all() and log_prob.isfinite().all()


def test_a_draw_is_a_function_of_logits_and_noise_alone():
    logits = drawn((6, 20, 3, 3))
    whole = categorical_sample(logits, key=random.key(1))
    part = categorical_sample(logits[4:], key=random.key(1), sample_offset=4)
    assert torch.equal(whole[0][4:], part[0]) and torch.equal(whole[1][4:], part[1])
    noise = random.uniform(random.key(1), (6, 3, 3))
    assert torch.equal(categorical_sample(logits, noise=noise)[0], whole[0])
    strided = torch.stack([logits, logits], dim=-1)[..., 0]
    assert torch.equal(categorical_sample(strided, noise=noise)[0], whole[0])


def test_an_empty_batch_works_and_threads_change_nothing():
    assert categorical_sample(torch.zeros(0, 4, 3))[0].shape == (0, 3)
    logits, threads = drawn((9, 40, 50)), torch.get_num_threads()
    one = categorical_sample(logits, key=random.key(2))
    torch.set_num_threads(3)
    try:
        assert torch.equal(categorical_sample(logits, key=random.key(2))[0], one[0])
    finally:
        torch.set_num_threads(threads)


def test_it_compiles_whole_and_is_well_formed():
    logits, noise = drawn((3, 6, 4)), random.uniform(random.key(0), (3, 4))
    torch.library.opcheck(torch.ops.genkern.categorical_sample.default, (logits, noise, 0.7, 2))
    compiled = torch.compile(lambda z: categorical_sample(z, noise=noise), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(logits)[0], categorical_sample(logits, noise=noise)[0])


@pytest.mark.parametrize(
    ("shape", "options", "text"),
    [
        ((5,), {}, "logits must be"),
        ((2, 5), {"dim": 0}, "dim must be one after the first; got 0"),
        ((2, 5), {"temperature": -1.0}, "temperature must be at least 0; got -1.0"),
        ((2, 5), {"top_k": 0}, "top_k must be None or an int, at least 1; got 0"),
        ((2, 5), {"noise": torch.zeros(3)}, r"noise must be \[2\]; got \[3\]"),
    ],
)
def test_errors_name_the_argument(shape, options, text):
    with pytest.raises(ValueError, match=f"categorical_sample: {text}"):
        categorical_sample(torch.zeros(shape), **options)
