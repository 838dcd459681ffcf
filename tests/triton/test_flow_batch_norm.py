from functools import partial

import pytest
import torch
from interpreted import assert_launchers_agree

from genkern.ops import flow_batch_norm
from genkern.testing import Case


def normalise(x, log_scale, bias, *, shift=0.0, impl="auto"):
    """Off zero in the log-scale, so that log-determinants do not cancel and ulps of them mean something."""
    return flow_batch_norm(x + shift, log_scale + 2.0, bias, None, None, training=True, impl=impl)


IMAGE = {"x": (3, 7, 5, 3), "log_scale": (7,), "bias": (7,)}
CASES = [
    Case("image", normalise, IMAGE),
    Case("off-centre", partial(normalise, shift=30.0), IMAGE),
    Case("vectors", normalise, {"x": (150, 37), "log_scale": (37,), "bias": (37,)}),
    Case("several-sums", normalise, {"x": (3, 2, 41, 43), "log_scale": (2,), "bias": (2,)}),
    Case("one-channel", normalise, {"x": (4, 1, 6), "log_scale": (1,), "bias": (1,)}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_launchers_agree_with_the_definition(case, dtype):
    assert_launchers_agree(case, dtype)


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "strided", "guarded"])
def test_layouts_change_nothing(layout):
    assert_launchers_agree(CASES[0], torch.float32, layout)
