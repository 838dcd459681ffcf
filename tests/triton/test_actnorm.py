import pytest
import torch
from interpreted import assert_launchers_agree

from genkern.ops import actnorm
from genkern.ops.actnorm import channel_affine
from genkern.ops.actnorm import triton as launchers
from genkern.testing import Case

IMAGE = {"x": (3, 7, 5, 3), "log_scale": (7,), "bias": (7,)}
CASES = [
    Case("image", actnorm, IMAGE),
    Case("image-inverse", actnorm, IMAGE, {"inverse": True}),
    Case("shift-first", actnorm, IMAGE, {"form": "shift_then_scale"}),
    Case("shift-first-inverse", actnorm, IMAGE, {"form": "shift_then_scale", "inverse": True}),
    Case("vectors", actnorm, {"x": (150, 37), "log_scale": (37,), "bias": (37,)}),
    Case("several-sums", actnorm, {"x": (3, 2, 41, 43), "log_scale": (2,), "bias": (2,)}),
    Case("one-channel", actnorm, {"x": (4, 1, 6), "log_scale": (1,), "bias": (1,)}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_launchers_agree_with_the_definition(case, dtype):
    assert_launchers_agree(case, dtype)


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "strided", "guarded"])
def test_layouts_change_nothing(layout):
    assert_launchers_agree(CASES[0], torch.float32, layout)


def test_gradients_that_nobody_needs_come_back_empty():
    x, grad_y, parameters = torch.randn(3, 2, 4), torch.randn(3, 2, 4), [torch.randn(2) for _ in range(3)]
    arguments = (grad_y, torch.randn(3), x, *parameters, False)
    everything = launchers.actnorm_backward(*arguments)
    for needs in ((True, False, False, False), (False, True, True, False), (True, False, False, True)):
        found = launchers.actnorm_backward(*arguments, *needs)
        for grad, whole, needed, empty in zip(
            found, everything, needs, channel_affine._fake_backward(*arguments, *needs), strict=True
        ):
            assert grad.shape == empty.shape
            assert not needed or torch.equal(grad, whole)


def test_extreme_scales_stay_finite():
    x, s, zero = torch.tensor([[0.0, 1e-20, 1e20]]), torch.tensor([100.0, 100.0, -100.0]), torch.zeros(3)
    y, log_det = launchers.actnorm(x, s, zero, zero, False)
    assert y.isfinite().all() and log_det.isfinite().all()
    assert y[0, 1] == pytest.approx(1e-20 * 2.6881171418161356e43, rel=1e-5)
