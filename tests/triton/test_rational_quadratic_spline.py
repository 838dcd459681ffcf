import pytest
import torch
from interpreted import assert_launchers_agree

from genkern.ops import rational_quadratic_spline as spline
from genkern.testing import Case

MASK = torch.arange(30).reshape(2, 5, 3) % 2 == 0
CASES = [
    Case("coupling", spline, {"x": (3, 5, 4, 3), "params": (3, 46, 4, 3)}, {"bound": 1.5}),
    Case("inverse", spline, {"x": (5, 3), "params": (5, 69)}, {"inverse": True, "bound": 1.5}),
    Case("last-circular-flip", spline, {"x": (3, 3, 5), "params": (3, 30, 5)},
         {"layout": "parameters_last", "bins": 5, "tails": "circular", "flip": True}),
    Case("bounded-inverse", spline, {"x": (4, 3), "params": (4, 32)},
         {"layout": "parameters_last", "bins": 5, "tails": None, "inverse": True}),
    Case("masked", spline, {"x": (2, 2, 5, 3), "params": (2, 16, 5, 3)}, {"bins": 3, "mask": MASK}),
    Case("several-tiles", spline, {"x": (2, 2, 13, 17), "params": (2, 23, 13, 17)}, scale=0.5),
    Case("one-bin", spline, {"x": (3, 2), "params": (3, 4)}, {"bins": 1}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_launchers_agree_with_the_definition(case, dtype):
    assert_launchers_agree(case, dtype)


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "strided", "guarded"])
def test_layouts_change_nothing(layout):
    assert_launchers_agree(CASES[0], torch.float32, layout)
