import pytest
import torch
from interpreted import assert_launchers_agree

from genkern.ops import squeeze, unsqueeze
from genkern.testing import Case

CASES = [
    Case("image", squeeze, {"x": (3, 2, 6, 8)}),
    Case("several-tiles", squeeze, {"x": (3, 2, 36, 38)}, {"layout": "ordered"}),
    Case("factor-3", squeeze, {"x": (2, 3, 9, 6)}, {"factor": 3}),
    Case("unsqueeze", unsqueeze, {"z": (3, 8, 3, 5)}),
    Case("unsqueeze-ordered", unsqueeze, {"z": (3, 12, 3, 7)}, {"layout": "ordered"}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_launchers_agree_with_the_definition(case, dtype):
    assert_launchers_agree(case, dtype)


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "strided", "guarded"])
def test_layouts_change_nothing(layout):
    assert_launchers_agree(CASES[0], torch.float32, layout)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_integers_are_moved_too(dtype):
    from genkern.ops.squeeze import reference, triton

    x = torch.randint(0, 200, (2, 3, 4, 6)).to(dtype)
    z = triton.squeeze(x, 2, "ordered", False)
    assert torch.equal(z, reference.squeeze(x, 2, "ordered", False))
    assert torch.equal(triton.squeeze(z, 2, "ordered", True), x)
