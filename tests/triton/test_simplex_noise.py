import pytest
import torch

from genkern.ops.simplex_noise import reference, triton

SEEDS = torch.tensor([0, 3, -7, 2**40 + 1])


def test_permutations_are_those_of_the_definition():
    seeds = torch.arange(-40, 40) * 2**57 + 1
    assert torch.equal(triton.permutations(seeds).long(), reference.permutations(seeds))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("t", [None, torch.tensor([0.0, 3.5, 100.0, 3.5], dtype=torch.float64)], ids=["two", "three"])
def test_fields_are_those_of_the_definition(t, dtype):
    for size, frequency in (((11, 25), 64.0), ((7, 20), 5.1), ((0, 3), 1.0)):
        call = (SEEDS, t, *size, 2, 0.8, frequency, dtype)
        torch.testing.assert_close(triton.simplex_noise(*call), reference.simplex_noise(*call), rtol=0,
                                   atol=1e-13 if dtype == torch.float64 else 1.5e-6)  # fmt: skip
