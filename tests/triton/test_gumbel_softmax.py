import pytest
import torch
from interpreted import assert_launchers_agree

from genkern import random
from genkern.ops import gumbel_softmax
from genkern.testing import Case

KEY = {"key": random.key(3), "sample_offset": 2**32 - 1}
CASES = [
    Case("vectors", gumbel_softmax, {"logits": (5, 7)}, {**KEY, "temperature": 0.7}),
    Case("tokens", gumbel_softmax, {"logits": (3, 50, 33)}, {**KEY, "temperature": 2.0}),
    Case("maps", gumbel_softmax, {"logits": (2, 9, 3, 5)}, {**KEY, "dim": 1}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_launchers_agree_with_the_definition(case, dtype):
    assert_launchers_agree(case, dtype)


@pytest.mark.parametrize("layout", ["transposed", "strided", "guarded"])
def test_layouts_change_nothing(layout):
    assert_launchers_agree(CASES[2], torch.float32, layout)


def test_hard_draws_are_those_of_the_definition_and_differentiate_as_the_soft():
    from genkern.ops.gumbel_softmax import noise, triton

    x, grad = torch.randn(3, 4, 17, 2), torch.randn(3, 4, 17, 2)
    call = (x, random.key(1), 0.5)
    assert torch.equal(triton.gumbel_softmax(*call, True, 3), noise.gumbel_softmax(*call, True, 3))
    soft = triton.gumbel_softmax_backward(grad, *call, False, 3)
    assert torch.equal(triton.gumbel_softmax_backward(grad, *call, True, 3), soft)
