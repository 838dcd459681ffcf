import pytest
import torch
from torch.nn.functional import pixel_unshuffle

from genkern.ops import squeeze, unsqueeze
from genkern.testing import Case, OpSuite, assert_same_bits, layouts

LAYOUTS = ["channel_major", "ordered"]


class TestSqueeze(OpSuite):
    cases = [
        Case("image", squeeze, {"x": (3, 2, 6, 8)}),
        Case("ordered", squeeze, {"x": (2, 3, 4, 10)}, {"layout": "ordered"}),
        Case("factor-3", squeeze, {"x": (2, 3, 9, 6)}, {"factor": 3}),
        Case("unsqueeze", unsqueeze, {"z": (3, 8, 3, 5)}),
        Case("unsqueeze-ordered", unsqueeze, {"z": (3, 12, 3, 7)}, {"layout": "ordered"}),
    ]


def by_index(x, factor, layout):
    """The formula of the docstring, element by element."""
    batch, channels, height, width = x.shape
    f = factor
    z = x.new_zeros(batch, channels * f * f, height // f, width // f)
    for c in range(channels):
        for i in range(f):
            for j in range(f):
                k = (i * f + j) * channels + c if layout == "ordered" else c * f * f + i * f + j
                z[:, k] = x[:, c, i::f, j::f]
    return z


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("factor", [1, 2, 3, 4])
@pytest.mark.parametrize("sites", [(1, 1), (3, 4), (5, 8), (2, 13), (3, 16), (1, 77)])
def test_values_are_those_of_the_formula_and_come_back(layout, factor, sites):
    x = torch.randn(2, 3, factor * sites[0], factor * sites[1], generator=torch.Generator().manual_seed(0))
    for impl in ("auto", "torch"):
        z = squeeze(x, factor=factor, layout=layout, impl=impl)
        assert torch.equal(z, by_index(x, factor, layout))
        assert torch.equal(unsqueeze(z, factor=factor, layout=layout, impl=impl), x)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool, torch.complex64])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_dtype_is_moved_bit_by_bit(dtype, layout):
    x = torch.randn(2, 3, 6, 40).mul(50).to(dtype)
    assert torch.equal(squeeze(x, layout=layout), by_index(x, 2, layout))
    assert torch.equal(unsqueeze(squeeze(x, layout=layout), layout=layout), x)


def test_channel_major_is_pixel_unshuffle():
    x = torch.randn(2, 3, 6, 8)
    assert torch.equal(squeeze(x), pixel_unshuffle(x, 2))


def test_nothing_is_kept_for_the_backward_pass():
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor), lambda tensor: tensor):
        squeeze(torch.randn(2, 3, 4, 4, requires_grad=True))
    assert not saved


def test_every_layout_in_gives_the_same_contiguous_result():
    x = torch.randn(2, 3, 4, 6)
    for given in layouts(x).values():
        z = squeeze(given)
        assert z.is_contiguous()
        assert_same_bits(z, squeeze(x))


@pytest.mark.parametrize(
    ("function", "shape", "options", "text"),
    [
        (squeeze, (2, 3, 5, 4), {}, r"squeeze: x must be .* divisible by 2; got \[2, 3, 5, 4\]"),
        (squeeze, (2, 3, 6, 8), {"factor": 3}, "squeeze: x must be .* divisible by 3"),
        (unsqueeze, (2, 6, 4, 4), {}, r"unsqueeze: z must be .* C divisible by 4; got \[2, 6, 4, 4\]"),
        (squeeze, (3, 4, 4), {}, r"squeeze: x must be \[B, C, H, W\]; got \[3, 4, 4\]"),
        (unsqueeze, (2, 4, 4, 4), {"layout": "zigzag"}, "unsqueeze: layout must be one of .* got 'zigzag'"),
        (squeeze, (2, 4, 4, 4), {"factor": 0}, "squeeze: factor must be a positive int; got 0"),
        (squeeze, (2, 4, 4, 4), {"impl": "fast"}, "squeeze: impl must be 'auto' or 'torch', got 'fast'"),
    ],
)
def test_errors_name_the_argument(function, shape, options, text):
    with pytest.raises(ValueError, match=text):
        function(torch.zeros(shape), **options)
