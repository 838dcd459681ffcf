import pytest
import torch

from genkern.ops.dynamic_threshold import reference

triton = pytest.importorskip("genkern.ops.dynamic_threshold.triton")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_quantiles_are_those_of_the_definition(dtype):
    for shape in [(2, 7), (3, 1), (0, 4), (1, 2, 1500)]:
        x = torch.randn(shape, dtype=torch.float64).to(dtype)
        for below, weight in ((0, 0.0), ((x[0:1].numel() or 4) // 2, 0.25), (max(x[0:1].numel(), 4) - 1, 0.5)):
            call = min(below, x.shape[1:].numel() - 1), weight, 0.1, 2.0
            wide = x.to(torch.float64 if dtype == torch.float64 else torch.float32)
            torch.testing.assert_close(triton.dynamic_threshold(x, *call), reference.dynamic_threshold(wide, *call))


def test_equal_magnitudes_and_nan():
    x = torch.tensor([[1.0, -1.0, 1.0, 0.5], [float("nan"), 0.0, 0.0, 0.0], [-0.0, 0.0, 0.0, float("inf")]])
    for below in range(4):
        found = triton.dynamic_threshold(x, below, 0.0, 0.0, 9.0)
        assert torch.equal(found.nan_to_num(7), reference.dynamic_threshold(x, below, 0.0, 0.0, 9.0).nan_to_num(7))
