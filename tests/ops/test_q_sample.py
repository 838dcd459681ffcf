import pytest
import torch

from genkern import random
from genkern.ops import q_sample
from genkern.testing import Case, OpSuite, assert_same_bits

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SHAPES = [(3, 5), (2, 3, 20, 20), (70, 3), (7, 2, 1), (1, 1), (0, 4), (4, 0), (5,), (1, 1027), (9, 64), (3, 2050)]


def shapes(*x0):
    return {"x0": x0, "alpha": (x0[0],), "sigma": (x0[0],)}


KEY = {"key": random.key(3)}


class TestQSample(OpSuite):
    cases = [
        Case("image", q_sample, shapes(3, 5, 7, 3), KEY),
        Case("short", q_sample, shapes(70, 3), KEY),
        Case("long", q_sample, shapes(2, 3, 29, 53), KEY | {"sample_offset": 2**32 - 1}),
        Case("noise", q_sample, shapes(3, 5), {"noise": random.normal(random.key(0), (3, 5))}, batched=False),
    ]

    def test_dispatcher_ops_are_well_formed(self, case):
        if case.name == "noise":
            pytest.skip("given noise needs no op")
        super().test_dispatcher_ops_are_well_formed(case)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_its_noise_is_that_of_the_key(shape, dtype):
    key, offset = random.key(1), 2**32 - 2
    noise = random.normal(key, shape, dtype=dtype, sample_offset=offset)
    assert_same_bits(q_sample(torch.zeros(shape, dtype=dtype), 0.0, 1.0, key=key, sample_offset=offset), noise)


def test_a_sample_does_not_depend_on_its_batch():
    key, x0 = random.key(1), torch.randn(9, 3, 20, 20)
    alpha, sigma = torch.rand(2, 9)
    whole = q_sample(x0, alpha, sigma, key=key)
    parts = [q_sample(x0[i:j], alpha[i:j], sigma[i:j], key=key, sample_offset=i) for i, j in ((0, 1), (1, 6), (6, 9))]
    assert_same_bits(torch.cat(parts), whole)


@pytest.mark.parametrize("index", [torch.int64, torch.int32])
def test_timesteps_look_the_coefficients_up(index):
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    cumprod = (1 - betas).cumprod(0)
    t = torch.tensor([0, 3, 999, 3], dtype=index)
    x0, key = torch.randn(4, 3, 8, 8), random.key(1)
    x_t = q_sample(x0, cumprod.sqrt(), (1 - cumprod).sqrt(), timesteps=t, key=key)
    chosen = cumprod[t.long()]
    assert_same_bits(x_t, q_sample(x0, chosen.sqrt().float(), (1 - chosen).sqrt().float(), key=key))
    assert x_t.dtype == torch.float32


def test_a_table_has_the_gradients_of_its_entries():
    table = torch.rand(5, dtype=torch.float64, requires_grad=True)
    x0, t, key = torch.randn(3, 4, dtype=torch.float64), torch.tensor([4, 1, 4]), random.key(0)
    (grad,) = torch.autograd.grad(q_sample(x0, table, 1.0, timesteps=t, key=key).sum(), table)
    wanted = torch.zeros(5, dtype=torch.float64).index_add(0, t, x0.sum(1))
    torch.testing.assert_close(grad, wanted)


@pytest.mark.parametrize("impl", ["auto", "torch"])
def test_it_writes_where_it_is_told_to(impl):
    x0, alpha, sigma = torch.randn(5, 3, 4, 4), torch.rand(5), torch.rand(5)
    call = {"key": random.key(2), "impl": impl}
    wanted = q_sample(x0, alpha, sigma, **call)
    out = torch.full_like(x0, float("nan"))
    assert q_sample(x0, alpha, sigma, out=out, **call) is out
    last = torch.full_like(x0, float("nan"), memory_format=torch.channels_last)
    q_sample(x0, alpha, sigma, out=last, **call)
    itself = x0.clone()
    q_sample(itself, alpha, sigma, out=itself, **call)
    for found in (out, last, itself):
        assert_same_bits(found, wanted)


def test_compiled_code_writes_there_too():
    def into(x0, out, key):
        q_sample(x0, 0.6, 0.8, key=key, out=out)
        return out + 1

    x0, key = torch.randn(2, 5), random.key(0)
    out = torch.zeros_like(x0)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(into, fullgraph=True)(x0, out, key), q_sample(x0, 0.6, 0.8, key=key) + 1)
    assert_same_bits(out, q_sample(x0, 0.6, 0.8, key=key))
    alone = torch.full((2,), 0.5)
    torch.library.opcheck(torch.ops.genkern.q_sample_out.default, (x0, alone, alone, key, 0, out))


def test_marginals_of_standard_normal_data_keep_their_variance():
    """a^2 + s^2 = 1 keeps N(0, 1): the variance of 2^20 numbers is 1 within five standard errors."""
    x0 = random.normal(random.key(5), (64, 16384))
    x_t = q_sample(x0, 0.6, 0.8, key=random.key(6))
    assert abs(x_t.double().var() - 1) < 5 * (2 / x_t.numel()) ** 0.5
    assert abs((x_t * x0).double().mean() - 0.6) < 5 / x_t.numel() ** 0.5


def test_under_vmap_every_key_draws_its_own_noise():
    x0, keys = torch.randn(4, 5), random.split(random.key(0), 3)
    found = torch.vmap(lambda key: q_sample(x0, 0.6, 0.8, key=key))(keys)
    torch.testing.assert_close(found, torch.stack([q_sample(x0, 0.6, 0.8, key=key) for key in keys]))


def test_memory_keeps_its_order():
    x0 = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    x_t = q_sample(x0, 0.6, 0.8, key=random.key(0))
    assert x_t.is_contiguous(memory_format=torch.channels_last)
    assert_same_bits(x_t, q_sample(x0.contiguous(), 0.6, 0.8, key=random.key(0)))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda x: q_sample(x.int(), 1.0, 1.0), TypeError, "x0 must be float32, .* got torch.int32"),
        (lambda x: q_sample(x, torch.ones(3), 1.0), ValueError, r"alpha must be \[\] or \[B\] = \[2\]; got \[3\]"),
        (lambda x: q_sample(x, 1.0, torch.ones(2).long()), TypeError, "sigma must be floating; got torch.int64"),
        (lambda x: q_sample(x, "1", 1.0), TypeError, "alpha must be a tensor or a number; got str"),
        (lambda x: q_sample(x, 1.0, 1.0, timesteps=torch.ones(2)), TypeError, "timesteps must be int64 or int32"),
        (lambda x: q_sample(x, 1.0, 1.0, timesteps=torch.zeros(3).long()), ValueError, r"timesteps must be \[B\]"),
        (
            lambda x: q_sample(x, torch.ones(()), 1.0, timesteps=torch.zeros(2).long()),
            ValueError,
            "alpha must be a table",
        ),
        (
            lambda x: q_sample(x, x[:, 0], 1.0, timesteps=torch.tensor([0, 2])),
            ValueError,
            r"timesteps must be in \[0, 2\), as the table alpha has 2 rows; got \[0, 2\]",
        ),
        (lambda x: q_sample(x, 1.0, 1.0, noise=x.to("meta")), ValueError, "noise must be on cpu; got meta"),
        (lambda x: q_sample(x, 1.0, 1.0, key=3), TypeError, "key must be an int64 tensor; got int"),
        (lambda x: q_sample(x, 1.0, 1.0, noise=x, key=random.key(0)), ValueError, "noise must be alone"),
        (lambda x: q_sample(x, 1.0, 1.0, noise=x[:1]), ValueError, "noise must be of the shape of x0"),
        (lambda x: q_sample(x, 1.0, 1.0, out=x.double()), ValueError, "out must be like x0: torch.float32"),
        (lambda x: q_sample(x.requires_grad_(), 1.0, 1.0, out=x.detach()), ValueError, "out must be None where a grad"),
        (lambda x: q_sample(x, 1.0, 1.0, sample_offset=-1), ValueError, "sample_offset must be at least 0; got -1"),
        (lambda x: q_sample(x, 1.0, 1.0, impl="fast"), ValueError, "impl must be 'auto' or 'torch'; got 'fast'"),
    ],
)
def test_errors_name_the_argument(call, error, text):
    with pytest.raises(error, match=f"q_sample: {text}"):
        call(torch.zeros(2, 3))
