import pytest
import torch
from interpreted import assert_launchers_agree

from genkern.ops import folded_plu_weight
from genkern.testing import Case


def fold(lower, upper, log_s, log_scale, bias, *, p, signs, impl):
    return folded_plu_weight(p, lower, upper, log_s, signs.to(log_s.dtype), log_scale, bias, impl=impl)


def case(n: int) -> Case:
    shapes = {"lower": (n, n), "upper": (n, n), "log_s": (n,), "log_scale": (n,), "bias": (n,)}
    generator = torch.Generator().manual_seed(n)
    options = {"p": torch.randperm(n, generator=generator), "signs": torch.ones(n)}
    return Case(f"{n}-channels", fold, shapes, options, scale=0.3, batched=False)


@pytest.mark.parametrize("case", [case(1), case(12), case(37)], ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_launchers_agree_with_the_definition(case, dtype):
    assert_launchers_agree(case, dtype)
