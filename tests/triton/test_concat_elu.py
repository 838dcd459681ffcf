import pytest
import torch
from interpreted import assert_launchers_agree

from genkern.ops import concat_elu
from genkern.testing import Case

CASES = [
    Case("several-tiles", concat_elu, {"x": (3, 5, 17, 13)}),
    Case("wide", concat_elu, {"x": (2, 40, 7, 5)}),
    Case("vectors", concat_elu, {"x": (7, 9)}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_launchers_agree_with_the_definition(case, dtype):
    assert_launchers_agree(case, dtype)


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "strided", "guarded"])
def test_layouts_change_nothing(layout):
    assert_launchers_agree(CASES[1], torch.float32, layout)
