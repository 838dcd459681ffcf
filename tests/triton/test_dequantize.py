import pytest
import torch

from genkern import random
from genkern.ops.dequantize import noise, reference, triton

SHAPES = [(3, 5), (2, 3, 20, 19), (70, 3), (1, 1), (0, 4), (4, 0), (5,)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_have_the_bits_of_the_definition(shape, dtype):
    for levels, integer in ((2, torch.uint8), (17, torch.int64), (256, torch.int16)):
        x = torch.randint(0, levels, shape).to(integer)
        call = (x, random.key(levels), levels, None, 0.0, dtype, 2**32 - 2)
        y, log_det = triton.dequantize(*call)
        wanted, wanted_log_det = noise.dequantize(*call)
        assert torch.equal(y, wanted)
        torch.testing.assert_close(log_det, wanted_log_det)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("alpha", [1e-6, 0.05])
def test_logits_agree_with_the_definition_and_come_back(alpha, dtype):
    for shape in SHAPES:
        x = torch.randint(0, 256, shape)
        margin = 4 * torch.finfo(torch.float32).eps / (1 - 2 * alpha)
        call = (x, random.key(9), 256, alpha, margin, dtype, 7)
        z, log_det = triton.dequantize(*call)
        wanted, wanted_log_det = noise.dequantize(*call)
        torch.testing.assert_close(z, wanted)
        torch.testing.assert_close(log_det, wanted_log_det)
        if dtype != torch.float16:
            assert torch.equal(triton.quantize(z, 256, alpha, torch.int64), x)


def test_quantize_is_the_definition():
    y = torch.cat([torch.rand(5, 501) * 1.2 - 0.1, torch.full((5, 1), float("nan"))], 1)
    for levels in (2, 17, 256, 65536):
        found = triton.quantize(y, levels, None, torch.int32)
        assert torch.equal(found, reference.quantize(y, levels, None, torch.int32))


def test_levels_out_of_range_are_nan():
    x = torch.tensor([[0, 16], [17, 3], [-1, 3]])
    for alpha in (None, 0.05):
        y, log_det = triton.dequantize(x, random.key(0), 17, alpha, 1e-6, torch.float32, 0)
        assert torch.equal(y.isnan(), (x < 0) | (x > 16))
    assert log_det.isnan().tolist() == [False, True, True]
