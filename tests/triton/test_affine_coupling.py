import pytest
import torch
from interpreted import assert_launchers_agree

from genkern.ops import additive_coupling, affine_coupling
from genkern.testing import Case

IMAGE = {"x": (3, 7, 5, 3), "params": (3, 6, 5, 3)}
MASK = torch.arange(45).reshape(3, 5, 3) % 2 == 0
CASES = [
    Case("sigmoid", affine_coupling, IMAGE),
    Case("exp-flip", affine_coupling, IMAGE, {"scale": "exp", "flip": True}),
    Case("tanh-inverse", affine_coupling, IMAGE, {"scale": "tanh", "bound": 2.0, "inverse": True}),
    Case("interleaved", affine_coupling, IMAGE, {"layout": "interleaved"}),
    Case("masked", affine_coupling, {"x": (2, 3, 5, 3), "params": (2, 6, 5, 3)}, {"mask": MASK}),
    Case("several-tiles", affine_coupling, {"x": (2, 4, 31, 37), "params": (2, 4, 31, 37)}),
    Case("vectors", affine_coupling, {"x": (70, 9), "params": (70, 8)}, {"layout": "shift_scale"}),
    Case("additive", additive_coupling, {"x": (3, 5, 4, 3), "shift": (3, 2, 4, 3)}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_launchers_agree_with_the_definition(case, dtype):
    assert_launchers_agree(case, dtype)


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "strided", "guarded"])
def test_layouts_change_nothing(layout):
    assert_launchers_agree(CASES[0], torch.float32, layout)
