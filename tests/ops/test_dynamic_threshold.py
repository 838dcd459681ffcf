import math

import pytest
import torch

from genkern.ops import dynamic_threshold
from genkern.testing import assert_same_bits, layouts

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 20, 20), (5,), (0, 4), (1, 1), (2, 5000)])
def test_selection_gives_what_sorting_gives(shape, dtype):
    x = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    for ratio in (0.0, 0.3, 0.995, 1.0):
        found = dynamic_threshold(x, ratio, 2.5, minimum=0.1)
        assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        torch.testing.assert_close(found, dynamic_threshold(x, ratio, 2.5, minimum=0.1, impl="torch"))


def test_quantiles_are_those_of_torch():
    x = torch.randn(4, 3, 17, 11, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for ratio in (0.0, 0.5, 0.9, 0.995, 1.0):
        wanted = torch.quantile(x.flatten(1).abs(), ratio, dim=1)
        torch.testing.assert_close(dynamic_threshold(x, ratio, minimum=0.0), wanted)


@pytest.mark.parametrize("values", [[0.0, -0.0, 0.0], [1.0, -1.0, 1.0, 1.0], [1e-40, 3e-39, 0.0], [1.0, math.inf, 2.0]])
def test_equal_tiny_and_infinite_magnitudes_are_ordered(values):
    x = torch.tensor([values])
    for below in range(len(values)):
        found = dynamic_threshold(x, below / (len(values) - 1), minimum=0.0)
        torch.testing.assert_close(found, x.abs().sort(1).values[:, below], rtol=1e-6, atol=0)


@pytest.mark.parametrize("impl", ["auto", "torch"])
def test_a_sample_with_nan_has_no_threshold(impl):
    x = torch.randn(3, 500)
    x[1, 7] = math.nan
    assert dynamic_threshold(x, impl=impl).isnan().tolist() == [False, True, False]


def test_samples_beyond_the_limit_of_torch_quantile_work():
    x = torch.arange(2**24 + 2, dtype=torch.int32).to(torch.float32).reshape(1, -1)
    assert dynamic_threshold(x, 0.5).item() == pytest.approx(2**23, rel=1e-6)


def test_layout_and_threads_do_not_matter():
    x = torch.randn(8, 3, 50, 50)
    wanted = dynamic_threshold(x)
    for tensor in layouts(x).values():
        assert_same_bits(dynamic_threshold(tensor), wanted)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    assert_same_bits(dynamic_threshold(x), wanted)
    torch.set_num_threads(before)


def test_compiled_and_exported_equal_eager():
    x = torch.randn(3, 40)
    compiled = torch.compile(lambda x: dynamic_threshold(x, 0.9), fullgraph=True)
    assert_same_bits(compiled(x), dynamic_threshold(x, 0.9))
    torch.library.opcheck(torch.ops.genkern.dynamic_threshold, (x, 30, 0.5, 1.0, math.inf))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ratio": 1.5}, "ratio must be in \\[0, 1\\]; got 1.5"),
        ({"x": torch.zeros(2, 0)}, "x must be of at least one element a sample"),
        ({"minimum": 3.0, "maximum": 2.0}, "minimum must be at most maximum"),
    ],
)
def test_errors_name_the_argument(change, message):
    with pytest.raises(ValueError, match=f"dynamic_threshold: {message}"):
        dynamic_threshold(**{"x": torch.zeros(2, 3)} | change)
