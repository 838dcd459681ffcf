import pytest
import torch
from interpreted import assert_launchers_agree

from genkern.ops import planar
from genkern.testing import Case

EACH = {"x": (70, 6), "u": (70, 6), "w": (70, 6), "b": (70,)}
SHARED = {"x": (70, 3), "u": (3,), "w": (3,), "b": ()}
LONG = {"x": (5, 1100), "u": (1100,), "w": (1100,), "b": ()}
CASES = [
    Case("each-sample", planar, EACH, scale=0.7),
    Case("each-sample-inverse", planar, EACH, {"inverse": True}, 0.7),
    Case("shared", planar, SHARED),
    Case("shared-inverse", planar, SHARED, {"inverse": True}),
    Case("several-chunks", planar, LONG, scale=0.1),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_launchers_agree_with_the_definition(case, dtype):
    assert_launchers_agree(case, dtype)


@pytest.mark.parametrize("layout", ["transposed", "strided", "guarded"])
def test_layouts_change_nothing(layout):
    assert_launchers_agree(CASES[0], torch.float32, layout)
