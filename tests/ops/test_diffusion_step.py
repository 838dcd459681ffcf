import pytest
import torch

from genkern import random
from genkern.ops import diffusion_step
from genkern.ops.diffusion_step import COLUMNS
from genkern.testing import Case, OpSuite, assert_same_bits

SHAPE = (3, 5, 4)
EACH = torch.randn(3, len(COLUMNS), generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 2
TABLE = torch.cat([EACH, EACH.flip(1)])
KEY, STEPS = random.key(5), torch.tensor([4, 0, 2])


def step(*tensors, names=(), **options):
    x, model_output, *others = tensors
    rows = options.pop("rows")[: len(x)] if "step" not in options else options.pop("rows")
    options = {k: v[: len(x)] if isinstance(v, torch.Tensor) and v.dim() == 1 else v for k, v in options.items()}
    after, x0 = diffusion_step(x, model_output, rows, **dict(zip(names, others, strict=True)), **options)
    return after if x0 is None else (after, x0)


def guided(x, model_output, unconditional, **options):
    return step(x, model_output, unconditional, names=("unconditional",), **options)


def multistep(x, model_output, previous, **options):
    return step(x, model_output, previous, names=("previous",), **options)


def learned(x, model_output, log_variance, **options):
    return step(x, model_output, log_variance, names=("log_variance",), **options)


def shapes(*names):
    return dict.fromkeys(("x", "model_output", *names), SHAPE)


CASES = [
    Case("clipped", step, shapes(), {"rows": EACH, "clip": 0.4, "key": KEY, "sample_offset": 3}),
    Case("guided", guided, shapes("unconditional"), {"rows": EACH, "guidance": 2.5, "rescale": 0.7, "key": KEY}),
    Case("multistep", multistep, shapes("previous"), {"rows": TABLE, "step": STEPS, "return_x0": False}),
    Case("learned", learned, shapes("log_variance"), {"rows": TABLE, "step": STEPS, "key": STEPS + 7,
                                                      "threshold": torch.tensor([0.5, 1.0, 1.5])}),
]  # fmt: skip


class TestDiffusionStep(OpSuite):
    cases = CASES


def row(**columns):
    return torch.tensor([float(columns.get(name, 0.0)) for name in COLUMNS])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 40, 40), (70, 3), (1, 1), (5,), (0, 4), (4, 0), (2, 17000)])
def test_noise_has_the_bits_of_an_unfused_draw(shape, dtype):
    x, key = torch.zeros(shape, dtype=dtype), random.key(-3)
    after, _ = diffusion_step(x, x, row(noise=1), key=key, sample_offset=2**32 - 2)
    assert_same_bits(after, random.normal(key, shape, dtype=dtype, sample_offset=2**32 - 2))


def test_a_step_counter_folds_itself_into_the_key():
    x, key = torch.zeros(4, 7), random.key(1)
    table = row(noise=1).expand(6, -1)
    after, _ = diffusion_step(x, x, table, key=key, step=torch.tensor(5))
    assert_same_bits(after, random.normal(random.fold_in(key, 5), (4, 7)))
    after, _ = diffusion_step(x, x, table, key=key, step=torch.tensor([0, 3, 3, 1]))
    for b, at in enumerate([0, 3, 3, 1]):
        assert_same_bits(after[b : b + 1], random.normal(random.fold_in(key, at), (1, 7), sample_offset=b))


def test_a_key_for_each_sample_draws_it_as_alone():
    x, keys = torch.zeros(3, 2050), torch.tensor([5, 9, 5])
    after, _ = diffusion_step(x, x, row(noise=1), key=keys, sample_offset=4)
    for b in range(3):
        assert_same_bits(after[b : b + 1], random.normal(keys[b], (1, 2050), sample_offset=4))


@pytest.mark.parametrize("shape", [(64, 2), (9, 700), (5, 20000)])
def test_parts_of_a_batch_have_the_bits_of_the_whole(shape):
    x, output, previous = (torch.randn(shape, generator=torch.Generator().manual_seed(i)) for i in range(3))
    options = {"clip": 0.7, "key": random.key(2)}
    whole = diffusion_step(x, output, EACH[0].float(), previous=previous, **options)
    for first in (0, 3):
        some = slice(first, None)
        part = diffusion_step(x[some], output[some], EACH[0].float(), previous=previous[some], sample_offset=first,
                              **options)  # fmt: skip
        assert_same_bits(part, [out[some] for out in whole])


@pytest.mark.parametrize("impl", ["auto", "torch"])
def test_a_term_without_coefficient_is_not_read(impl):
    x, nan = torch.randn(2, 5), torch.full((2, 5), float("nan"))
    rows = torch.stack([row(x=1, x0_of_output=1), row(x=1, noise=1, previous=1)])
    after, _ = diffusion_step(x, x, rows, previous=nan, log_variance=nan, key=random.key(0), impl=impl)
    assert torch.equal(after[0], x[0]) and after[1].isnan().all()


@pytest.mark.parametrize("impl", ["auto", "torch"])
def test_a_step_that_is_not_in_the_table_is_nan(impl):
    x = torch.randn(3, 5)
    after, _ = diffusion_step(x, x, TABLE, step=torch.tensor([-1, 2, 6]), impl=impl)
    assert after[0].isnan().all() and after[1].isfinite().all() and after[2].isnan().all()


@pytest.mark.parametrize("impl", ["auto", "torch"])
def test_learned_variances_of_a_hundred_are_finite(impl):
    x, v = torch.zeros(2, 5), torch.tensor([[100.0], [-100.0]]).expand(2, 5)
    after, _ = diffusion_step(x, x, row(noise=1, log_std_slope=0.5), log_variance=v, key=random.key(0), impl=impl)
    assert after.isfinite().all() and after[0].abs().max() > 1e20


@pytest.mark.parametrize("impl", ["auto", "torch"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_results_may_be_written_over_the_inputs(layout, impl):
    x, output, previous = (torch.randn(2, 3, 4, 5).to(memory_format=layout) for _ in range(3))
    options = {"clip": 0.5, "key": random.key(1), "impl": impl}
    after, x0 = diffusion_step(x, output, EACH[1], previous=previous, **options)
    found = diffusion_step(x, output, EACH[1], previous=previous, out=x, out_x0=previous, **options)
    assert found[0] is x and found[1] is previous
    assert_same_bits(found, (after, x0))


def test_results_in_place_have_no_derivatives():
    x = torch.randn(2, 3)
    with pytest.raises(RuntimeError, match="out must be None where derivatives are wanted"):
        diffusion_step(x.clone().requires_grad_(), x, EACH[0], out=x)


def test_given_noise_is_the_noise():
    x, z = torch.randn(2, 3), torch.randn(2, 3)
    after, _ = diffusion_step(x, x, row(x=2, noise=3), noise=z)
    torch.testing.assert_close(after, 2 * x + 3 * z)


def test_rescaled_guidance_has_the_spread_of_the_conditional_output():
    c, u = torch.randn(3, 50), torch.randn(3, 50)
    after, _ = diffusion_step(c, c, row(output=1), unconditional=u, guidance=4.0, rescale=1.0)
    torch.testing.assert_close(after.std(1), c.std(1))


def test_compiled_steps_in_place_equal_eager_ones():
    x, output = torch.randn(2, 6), torch.randn(2, 6)
    wanted, _ = diffusion_step(x, output, TABLE.float(), key=KEY, step=torch.tensor(2))

    def in_place(x, output, count):
        diffusion_step(x, output, TABLE.float(), key=KEY, step=count, return_x0=False, out=x)
        return count + 1

    count = torch.compile(in_place, fullgraph=True)(x, output, torch.tensor(2))
    assert count == 3
    assert_same_bits(x, wanted)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"coefficients": torch.zeros(8)}, "coefficients must be \\[9\\] or \\[B, 9\\] with B = 2; got \\[8\\]"),
        ({"coefficients": torch.zeros(4, 9)}, "coefficients must be"),
        ({"model_output": torch.zeros(2, 4)}, "model_output must be of the shape of x \\[2, 3\\]; got \\[2, 4\\]"),
        ({"previous": torch.zeros(2, 4)}, "previous must be of the shape of x"),
        ({"key": torch.zeros(3, dtype=torch.int64)}, "key must be \\[\\] or \\[2\\]; got \\[3\\]"),
        ({"threshold": torch.zeros(3)}, "threshold must be \\[2\\]; got \\[3\\]"),
        ({"threshold": torch.zeros(2, device="meta")}, "threshold must be on cpu; got meta"),
        ({"coefficients": torch.zeros(())}, "coefficients must be \\[9\\] or"),
        ({"clip": (1.0, 0.0)}, "clip must be"),
        ({"out": torch.zeros(2, 4)}, "out must be of the shape of x"),
        ({"sample_offset": -1}, "sample_offset must be at least 0; got -1"),
    ],
)
def test_errors_name_the_argument(change, message):
    arguments = {"x": torch.zeros(2, 3), "model_output": torch.zeros(2, 3), "coefficients": torch.zeros(9)} | change
    with pytest.raises(ValueError, match=f"diffusion_step: {message}"):
        diffusion_step(**arguments)
