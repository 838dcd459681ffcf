import pytest
import torch

from genkern import random
from genkern.ops.categorical_sample import reference, triton


@pytest.mark.parametrize("shape", [(3, 17, 5), (2, 300, 1), (70, 4, 1)])
@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, 0), (0.0, 0), (0.7, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_launcher_draws_what_the_definition_draws(shape, temperature, top_k, dtype):
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(shape, generator=generator) * 2).round(decimals=1).to(dtype)  # with ties
    noise = random.uniform(random.key(0), (shape[0], shape[2]), dtype=dtype)
    index, log_prob = triton.categorical_sample(logits, noise, temperature, top_k)
    wanted = reference.categorical_sample(logits, noise, temperature, top_k)
    assert torch.equal(index, wanted[0])
    torch.testing.assert_close(log_prob, wanted[1])


def test_half_precision_logits_are_read_as_they_are():
    logits = torch.randn(2, 9, 6).bfloat16()
    noise = random.uniform(random.key(0), (2, 6))
    index, log_prob = triton.categorical_sample(logits, noise, 1.0, 0)
    wanted = reference.categorical_sample(logits.float(), noise, 1.0, 0)
    assert torch.equal(index, wanted[0]) and log_prob.dtype == torch.float32
    torch.testing.assert_close(log_prob, wanted[1])
