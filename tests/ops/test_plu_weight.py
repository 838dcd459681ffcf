import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.testing import assert_close

from genkern.ops import actnorm, folded_plu_weight, invertible_conv1x1, log_abs_det, plu_factors, plu_weight
from genkern.testing import Case, OpSuite


def fold(lower, upper, log_s, log_scale, bias, *, p: Tensor, signs: Tensor, impl: str):
    return folded_plu_weight(p, lower, upper, log_s, signs.to(log_s.dtype), log_scale, bias, impl=impl)


def case(name: str, n: int) -> Case:
    generator = torch.Generator().manual_seed(n)
    order, signs = torch.randperm(n, generator=generator), torch.randint(0, 2, (n,), generator=generator) * 2 - 1
    shapes = {"lower": (n, n), "upper": (n, n), "log_s": (n,), "log_scale": (n,), "bias": (n,)}
    return Case(name, fold, shapes, {"p": order, "signs": signs}, scale=0.5, batched=False)


class TestFoldedPluWeight(OpSuite):
    cases = [case("channels", 6), case("one-channel", 1), case("odd", 19)]


def factors(n: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(n)
    return plu_factors(torch.randn(n, n, generator=generator, dtype=torch.float64).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_plu_factors_give_the_weight_and_its_log_det(dtype):
    weight = torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    found = plu_factors(weight)
    assert_close(plu_weight(*found), weight)
    assert_close(found[3].sum(), log_abs_det(weight)[0])


def test_the_log_det_is_that_of_the_weight_in_its_factors():
    p, lower, upper, log_s, sign_s = factors(4)
    inputs = [t.requires_grad_() for t in (lower, upper, log_s)]
    assert gradcheck(lambda *f: plu_weight(p, *f, sign_s), inputs)
    grads = torch.autograd.grad(log_abs_det(plu_weight(p, *inputs, sign_s)).sum(), inputs)
    assert_close(grads[0], torch.zeros(4, 4, dtype=torch.float64))
    assert_close(grads[2], torch.ones(4, dtype=torch.float64))


def test_a_folded_weight_equals_two_layers():
    x, parameters = torch.randn(3, 5, 4, 4).double(), torch.randn(2, 5).double()
    plu = factors(5)
    h, first = actnorm(x, *parameters)
    expected, second = invertible_conv1x1(h, plu_weight(*plu))
    weight, shift, value = folded_plu_weight(*plu, *parameters)
    found, log_det = invertible_conv1x1(x, weight, shift, log_abs_det=value)
    assert_close(found, expected)
    assert_close(log_det, first + second)


def test_only_the_triangles_are_read():
    p, lower, upper, log_s, sign_s = factors(7, torch.float32)
    full = torch.full((7, 7), torch.nan)
    noisy = (
        torch.where(torch.ones(7, 7).tril(-1) > 0, lower, full),
        torch.where(torch.ones(7, 7).triu(1) > 0, upper, full),
    )
    assert torch.equal(plu_weight(p, *noisy, log_s, sign_s), plu_weight(p, lower, upper, log_s, sign_s))


def test_many_channels_give_what_few_do():
    small, large = factors(71, torch.float32), factors(73, torch.float32)
    for plu in (small, large):
        assert_close(plu_weight(*plu), plu_weight(*plu, impl="torch"), rtol=1e-4, atol=1e-4)


def test_autocast_and_bfloat16_keep_the_log_det_in_float32():
    plu = factors(6, torch.bfloat16)
    nothing = torch.zeros(6, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        weight, shift, value = folded_plu_weight(*plu, nothing, nothing)
    assert weight.dtype == shift.dtype == torch.bfloat16 and value.dtype == torch.float32
    assert_close(value, plu[3].float().sum())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({0: torch.zeros(3)}, TypeError, "p must be int64"),
        ({2: torch.zeros(2, 3)}, ValueError, "upper must be like lower; got"),
        ({1: torch.zeros(2, 3)}, ValueError, "lower must be a square matrix"),
        ({3: torch.zeros(2)}, ValueError, r"log_s must be \[C\]; got \[2\]"),
        ({4: torch.zeros(3, dtype=torch.int64)}, TypeError, "sign_s must be float32"),
    ],
)
def test_wrong_factors_are_named(change, error, message):
    given = list(factors(3, torch.float32))
    for place, value in change.items():
        given[place] = value
    with pytest.raises(error, match=f"plu_weight: {message}"):
        plu_weight(*given)


def test_an_order_that_is_no_permutation_is_an_error():
    p, *others = factors(3, torch.float32)
    with pytest.raises(RuntimeError, match="p must be a permutation of 0 to C - 1; got 3"):
        plu_weight(p + 1, *others)
