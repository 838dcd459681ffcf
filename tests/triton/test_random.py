import pytest
import torch

from genkern import random
from genkern.ops.random import reference
from genkern.ops.random import triton as kernels

DRAWS = [(random.normal, kernels.random_normal), (random.uniform, kernels.random_uniform)]


@pytest.mark.parametrize(("draw", "kernel"), DRAWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_triton_draws_the_bits_of_the_definition(draw, kernel, dtype):
    key = random.key(42)
    for shape in ((7, 1), (7, 3), (9, 5), (3, 1000), (3, 257), (0, 4), (4, 0)):
        for offset in (0, 2**32 - 3):
            expected = draw(key, shape, dtype=dtype, sample_offset=offset, impl="torch")
            if dtype == torch.bfloat16:  # the interpreter cuts where a GPU rounds
                cut = draw(key, shape, sample_offset=offset)
                cut = cut.clamp(max=1 - 2**-8) if draw is random.uniform else cut
                expected = (cut.view(torch.int32) & -65536).view(torch.float32).to(dtype)
            assert torch.equal(kernel(key, *shape, dtype, offset), expected)


def test_triton_derives_the_keys_of_the_definition():
    keys, numbers = random.split(random.key(1), 300), torch.arange(-7, 293) * 2**33
    for domain in (reference.FOLD_IN, reference.SPLIT):
        derived = kernels.random_fold_in(keys, numbers, domain)
        assert torch.equal(derived, reference.random_fold_in(keys, numbers, domain))
