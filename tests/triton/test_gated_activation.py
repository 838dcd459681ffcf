import pytest
import torch
from interpreted import assert_launchers_agree

from genkern.ops import gated_activation
from genkern.testing import Case

IMAGE = (3, 10, 7, 6)


def all_terms(x, bias, condition, link, impl="auto"):
    return gated_activation(x, bias=bias, condition=condition, link=link, impl=impl)


CASES = [
    Case("plain", gated_activation, {"x": IMAGE}),
    Case("all-terms", all_terms, {"x": IMAGE, "bias": (10,), "condition": (3, 10), "link": IMAGE}),
    Case("several-tiles", all_terms, {"x": (2, 4, 31, 37), "bias": (4,), "condition": (2, 4), "link": (2, 4, 31, 37)}),
    Case("wide", all_terms, {"x": (2, 300, 3, 3), "bias": (300,), "condition": (2, 300), "link": (2, 300, 3, 3)}),
    Case("vectors", all_terms, {"x": (7, 14), "bias": (14,), "condition": (7, 14), "link": (7, 14)}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_launchers_agree_with_the_definition(case, dtype):
    assert_launchers_agree(case, dtype)


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "strided", "guarded"])
@pytest.mark.parametrize("case", [CASES[1], CASES[3]], ids=lambda case: case.name)
def test_layouts_change_nothing(case, layout):
    assert_launchers_agree(case, torch.float32, layout)
