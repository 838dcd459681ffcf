import pytest
import torch
from interpreted import assert_launchers_agree

from genkern.ops import quantile_huber
from genkern.testing import Case

CASE = Case("several-tiles", quantile_huber, {name: (3, 5, 17, 13) for name in ("x", "q", "tau")}, {"kappa": 0.25})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_launchers_agree_with_the_definition(dtype):
    assert_launchers_agree(CASE, dtype)


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "strided", "guarded"])
def test_layouts_change_nothing(layout):
    assert_launchers_agree(CASE, torch.float32, layout)
