"""Langevin steps: the noise of `genkern.random`, the formula, the corrector's step size, and where chains end."""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from genkern import random
from genkern.ops import langevin_snr_step, langevin_step
from genkern.testing import Case, OpSuite, assert_same_bits

KEY = random.key(3)
EACH = torch.tensor([0.3, 0.1, 0.7], dtype=torch.float64)


@pytest.fixture(autouse=True)
def _same_inputs_every_time():
    torch.manual_seed(0)


def case(name: str, shape: tuple[int, ...], **options) -> Case:
    return Case(name, step_of(**options), {"x": shape, "grad": shape}, {"key": KEY})


def step_of(step=0.1, scale=None, **options):
    def function(x: Tensor, grad: Tensor, key: Tensor, impl: str = "auto") -> Tensor:
        a, b = (value[: len(x)] if isinstance(value, Tensor) else value for value in (step, scale))
        return langevin_step(x, grad, a, b, key=key, impl=impl, **options)

    return function


class TestLangevinStep(OpSuite):
    cases = [
        case("plain", (3, 2, 5, 3)),
        case("clamped", (3, 1100), step=0.5, clamp_grad=0.7, clamp=(-1.0, 1.0)),
        case("each sample", (3, 7), step=EACH, scale=EACH.float(), clamp=(None, 0.5)),
        case("noise first", (3, 70), step=0.4, scale=0.3, clamp_grad=0.5, clamp=(-0.5, 0.5), order="noise-first"),
    ]


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 40, 40), (70, 2), (3, 1025), (0, 4), (4, 0)])
def test_the_noise_is_that_of_the_random_stream(shape):
    x = torch.zeros(shape)
    drawn = langevin_step(x, x, 0.0, 1.0, key=KEY, sample_offset=2**32 - 2)
    assert_same_bits(drawn, random.normal(KEY, shape, sample_offset=2**32 - 2))


def test_the_formula_in_float64():
    x, g = torch.randn(2, 3, 50, dtype=torch.float64).unbind(0)
    z = random.normal(KEY, x.shape, dtype=torch.float64)
    assert_close(langevin_step(x, g, 0.2, key=KEY), x + 0.2 * g + math.sqrt(0.4) * z)
    assert_close(langevin_step(x, g, 0.2, 0.3, key=KEY), x + 0.2 * g + 0.3 * z)
    assert_close(langevin_step(x, g, 0.2, 0, key=KEY), x + 0.2 * g)
    assert_close(langevin_step(x, g, 0.2, noise=z), langevin_step(x, g, 0.2, key=KEY))
    wanted = (x + 10 * g.clamp(-0.01, 0.01)).clamp(0, 1) + 0.005 * z
    igebm = {"clamp_grad": 0.01, "clamp": (0, 1), "order": "noise-first"}
    assert_close(langevin_step(x, g, 10, 0.005, key=KEY, **igebm), wanted)


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("shape", [(7, 3, 20, 19), (300, 2), (6, 2500)])
def test_a_sample_does_not_depend_on_its_batch(shape, each):
    x, g = torch.randn(2, *shape).unbind(0)
    step = torch.rand(shape[0]) if each else torch.tensor(0.1)
    whole = langevin_step(x, g, step, key=KEY, clamp=(-1, 1))
    for first, last in ((0, 2), (2, 5), (5, shape[0])):
        part = langevin_step(
            x[first:last],
            g[first:last],
            step[first:last] if each else step,
            key=KEY,
            clamp=(-1, 1),
            sample_offset=first,
        )
        assert_same_bits(part, whole[first:last])
    moved, sizes = langevin_snr_step(x, g, 0.16, key=KEY, per_sample=True)
    part, part_sizes = langevin_snr_step(x[3:], g[3:], 0.16, key=KEY, per_sample=True, sample_offset=3)
    assert_same_bits([part, part_sizes], [moved[3:], sizes[3:]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_in_place_is_the_same_step(dtype):
    x, g = torch.randn(2, 4, 3, 33).to(dtype).unbind(0)
    wanted = langevin_step(x, g, 0.1, key=KEY)
    for out in (x.clone(), torch.full_like(x, torch.nan), torch.empty(4, 3, 66, dtype=dtype)[..., ::2]):
        assert langevin_step(x, g, 0.1, key=KEY, out=out) is out
        assert_same_bits(out.contiguous(), wanted)
    y = x.clone()
    assert langevin_step(y, g, 0.1, key=KEY, out=y) is y
    assert_same_bits(y, wanted)
    moved = langevin_snr_step(x, g, 0.1, key=KEY)[0]
    langevin_snr_step(x, g, 0.1, key=KEY, out=x)
    assert_same_bits(x, moved)


def test_a_compiled_step_in_place_is_the_same():
    def chain(x: Tensor, key: Tensor) -> Tensor:
        x = x.clone()
        for i in range(3):
            langevin_step(x, -x, 0.1, key=random.fold_in(key, i), out=x)
        return langevin_snr_step(x, -x, 0.16, key=key)[0]

    torch._dynamo.reset()
    x = torch.randn(4, 10)
    assert_close(torch.compile(chain, fullgraph=True)(x, KEY), chain(x, KEY), rtol=1e-6, atol=1e-6)


def test_dispatcher_ops_that_the_suite_does_not_see_are_well_formed():
    x, ops = torch.randn(3, 5), torch.ops.genkern
    torch.library.opcheck(ops.langevin_norms.default, (x, KEY, 1))
    args = (x, x + 1, KEY, None, torch.rand(3), 0.1, 0.0, None, None, 1.0, False, 0, torch.empty_like(x))
    torch.library.opcheck(ops.langevin_step_out.default, args)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("alpha", [1.0, torch.tensor([0.5, 0.9, 0.2], dtype=torch.float64)])
def test_the_corrector_is_that_of_the_paper(per_sample, alpha):
    for shape in ((3, 2, 40, 31), (3, 2)):
        x, g = torch.randn(2, *shape, dtype=torch.float64).unbind(0)
        z = random.normal(KEY, x.shape, dtype=torch.float64)
        norms = [value.flatten(1).norm(dim=1) for value in (g, z)]
        grad_norm, noise_norm = norms if per_sample else [norm.mean() for norm in norms]
        step = ((0.16 * noise_norm / grad_norm) ** 2 * 2 * alpha).expand(3)
        each = step.reshape(3, *(1,) * (x.dim() - 1))
        wanted = x + each * g + (2 * each).sqrt() * z
        for impl in ("auto", "torch"):
            moved, sizes = langevin_snr_step(x, g, 0.16, alpha, key=KEY, per_sample=per_sample, impl=impl)
            assert_close(sizes, step)
            assert_close(moved, wanted)
        narrow, sizes = langevin_snr_step(x.bfloat16(), g.bfloat16(), 0.16, alpha, key=KEY, per_sample=per_sample)
        assert narrow.dtype == torch.bfloat16 and sizes.dtype == torch.float32
        assert_close(sizes, step.float(), rtol=1e-2, atol=0)  # bfloat16 rounds the score by up to 0.4 %


def test_step_and_scale_have_gradients_too():
    x, g = torch.randn(2, 3, 4, dtype=torch.float64).unbind(0)
    step, scale = (torch.rand(3, dtype=torch.float64).requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(lambda a, b: langevin_step(x, g, a, b, key=KEY), (step, scale))


@pytest.mark.parametrize("step", [0.1, 0.8, 1.5])
def test_the_chain_on_a_gaussian_has_the_variance_of_the_unadjusted_algorithm(step):
    """Of U = x^2 / 2v it is v / (1 - a / 2v), exactly; 200 000 chains show it to 1 %."""
    variance, x = 0.9, torch.zeros(2000, 100)
    for i in range(60 if step < 0.5 else 30):
        langevin_step(x, -x / variance, step, key=random.fold_in(KEY, i), out=x)
    assert float(x.var()) == pytest.approx(variance / (1 - step / (2 * variance)), rel=0.01)


def test_noise_scale_sets_the_temperature():
    x, temperature, step = torch.zeros(2000, 50), 0.25, 0.05
    for i in range(150):
        langevin_step(x, -x, step, math.sqrt(2 * step * temperature), key=random.fold_in(KEY, i), out=x)
    assert float(x.var()) == pytest.approx(temperature / (1 - step / 2), rel=0.02)


def test_nan_stays_nan_under_clamps():
    x = torch.tensor([[math.nan, 100.0, -100.0]])
    y = langevin_step(x, x, 0.5, 0.1, key=KEY, clamp_grad=1.0, clamp=(-1.0, 1.0))
    assert y.isnan().tolist() == [[True, False, False]] and y[0, 1:].tolist() == [1.0, -1.0]


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda x: langevin_step(x, x[:1], 0.1), ValueError, r"grad must be of the shape of x \[2, 3\]; got \[1, 3\]"),
        (lambda x: langevin_step(x, x, -0.1), ValueError, "step must be at least 0 where scale is None; got -0.1"),
        (lambda x: langevin_step(x, x, torch.ones(3)), ValueError, r"step must be \[\] or \[B\] = \[2\]; got \[3\]"),
        (lambda x: langevin_step(x, x, 0.1, torch.ones(2).long()), TypeError, "scale must be a floating tensor"),
        (lambda x: langevin_step(x.long(), x, 0.1), TypeError, "langevin_step: x must be float32"),
        (lambda x: langevin_step(x, x, 0.1, key=3), TypeError, "key must be an int64 tensor; got int"),
        (lambda x: langevin_step(x, x, 0.1, order="first"), ValueError, "order must be 'noise-last' or 'noise-first'"),
        (lambda x: langevin_step(x, x, 0.1, clamp=(1, 0)), ValueError, "clamp must be .* in order"),
        (lambda x: langevin_step(x, x, 0.1, clamp=1.0), ValueError, "clamp must be None or a pair"),
        (lambda x: langevin_step(x, x, "0.1"), TypeError, "step must be a tensor or a number; got str"),
        (lambda x: langevin_step(x, x, 0.1, noise=x.to("meta")), ValueError, "noise must be on cpu; got meta"),
        (lambda x: langevin_step(x, x, 0.1, clamp_grad=-1), ValueError, "clamp_grad must be None or at least 0"),
        (lambda x: langevin_step(x, x, 0.1, sample_offset=-1), ValueError, "sample_offset must be at least 0"),
        (lambda x: langevin_step(x, x, 0.1, out=x.double()), ValueError, "out must be like x"),
        (
            lambda x: langevin_step(x.clone().requires_grad_(), x, 0.1, out=x),
            ValueError,
            "out must be None where a gra",
        ),
        (lambda x: langevin_step(x, x, 0.1, key=KEY, noise=x), ValueError, "noise must be alone"),
        (lambda x: langevin_step(x, x, 0.1, impl="fast"), ValueError, "impl must be 'auto' or 'torch'"),
        (lambda x: langevin_snr_step(x, x, 0), ValueError, "langevin_snr_step: snr must be positive; got 0"),
        (lambda x: langevin_snr_step(x, x, 1, torch.ones(4)), ValueError, "langevin_snr_step: alpha must be"),
    ],
)
def test_errors_name_the_argument(call, error, text):
    with pytest.raises(error, match=text):
        call(torch.zeros(2, 3))
