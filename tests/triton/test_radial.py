import pytest
import torch
from interpreted import assert_launchers_agree

from genkern.ops import radial
from genkern.testing import Case

EACH = {"x": (70, 6), "center": (70, 6), "raw_alpha": (70,), "raw_beta": (70,)}
SHARED = {"x": (70, 3), "center": (3,), "raw_alpha": (), "raw_beta": ()}
LONG = {"x": (5, 1100), "center": (1100,), "raw_alpha": (), "raw_beta": ()}
CASES = [
    Case("each-sample", radial, EACH),
    Case("each-sample-inverse", radial, EACH, {"inverse": True}),
    Case("shared", radial, SHARED),
    Case("shared-inverse", radial, SHARED, {"inverse": True}),
    Case("several-chunks", radial, LONG),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_launchers_agree_with_the_definition(case, dtype):
    assert_launchers_agree(case, dtype)


@pytest.mark.parametrize("layout", ["transposed", "strided", "guarded"])
def test_layouts_change_nothing(layout):
    assert_launchers_agree(CASES[0], torch.float32, layout)
