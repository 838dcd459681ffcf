import math

import pytest
import torch

from genkern import random
from genkern.ops import bits_per_dim, dequantize, logit_transform, quantize
from genkern.ops.dequantize import reference
from genkern.testing import assert_same_bits, assert_within_rule, jacobian_log_det, layouts

INTEGERS = [torch.uint8, torch.int16, torch.int32, torch.int64]
FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SHAPES = [(3, 5), (2, 3, 40, 40), (70, 3), (7, 2, 1), (1, 1), (0, 4), (4, 0), (5,), (1, 1027), (9, 64), (3, 2050)]


def integers(shape, levels, dtype=torch.int32, seed=0):
    return torch.randint(0, levels, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_have_the_bits_of_the_definition(shape, dtype):
    for levels in (2, 17, 256):
        x, key, offset = integers(shape, levels), random.key(levels), 2**32 - 2
        y, log_det = dequantize(x, levels, key=key, dtype=dtype, sample_offset=offset)
        wanted, _ = dequantize(x, levels, key=key, dtype=dtype, sample_offset=offset, impl="torch")
        assert_same_bits(y, wanted)
        assert torch.equal(log_det, torch.full_like(log_det, -x[:1].numel() * math.log(levels)))
        assert log_det.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("alpha", [0.0, 1e-6, 0.05, 0.3])
def test_logits_obey_the_rule(alpha, dtype):
    for shape in SHAPES:
        x, key = integers(shape, 256, torch.uint8), random.key(1)
        truth = dequantize(x, 256, alpha=alpha, key=key, dtype=torch.float64, impl="torch")
        plain = dequantize(x, 256, alpha=alpha, key=key, dtype=dtype, impl="torch")
        kernel = dequantize(x, 256, alpha=alpha, key=key, dtype=dtype)
        for found, p, t in zip(kernel, plain, truth, strict=True):
            assert_within_rule(found, p, t)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_any_integer_type_and_layout_gives_the_same(dtype):
    x = integers((4, 3, 6, 5), 100)
    wanted = dequantize(x, 100, key=random.key(2), alpha=0.05)
    dense = [torch.empty_like(given, dtype=dtype).copy_(x) for given in layouts(x.double()).values()]
    for given in (x.to(dtype), x.to(dtype).repeat_interleave(2, dim=3)[..., ::2], *dense):
        assert_same_bits(dequantize(given, 100, key=random.key(2), alpha=0.05), wanted)
        assert torch.equal(quantize(wanted[0], 100, alpha=0.05, dtype=dtype), x.to(dtype))


@pytest.mark.parametrize("impl", ["auto", "torch"])
def test_every_level_comes_back_from_both_of_its_ends(impl):
    """The noise that is nearest to 0 and to 1, for every level of every number of levels up to 256."""
    small = range(2, 257) if impl == "auto" else (2, 3, 17, 100, 255, 256)
    for levels in (*small, 1000, 4097, 65535, 65536):
        x = torch.arange(levels).expand(3, levels)
        u = torch.tensor([[2.0**-24], [0.5], [1 - 2.0**-24]]).expand(3, levels)
        for alpha in (None, 1e-6, 0.05):
            margin = 0.0 if alpha is None else min(4 * 2.0**-23 / (1 - 2 * alpha), 0.25 / levels)
            y, _ = reference.dequantize(x, u, levels, alpha, margin, torch.float32)
            assert torch.equal(quantize(y, levels, alpha=alpha, dtype=torch.int64, impl=impl), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("alpha", [None, 1e-6, 0.05])
@pytest.mark.parametrize("levels", [2, 3, 17, 100, 255, 256, 1000, 65536])
def test_quantize_undoes_dequantize(levels, alpha, dtype):
    x = integers((64, 1000), levels, torch.int64)
    y, _ = dequantize(x, levels, alpha=alpha, dtype=dtype, generator=torch.Generator().manual_seed(0))
    assert torch.equal(quantize(y, levels, alpha=alpha, dtype=torch.int64), x)
    if alpha is None:
        assert y.min() >= 0 and y.max() < 1


def test_quantize_brings_what_lies_outside_to_the_nearest_level():
    y = torch.tensor([-math.inf, -1e30, -1e-9, -0.0, 0.999, 1.0, 1e30, math.inf, math.nan])
    for impl in ("auto", "torch"):
        assert quantize(y, 17, impl=impl).tolist() == [0, 0, 0, 0, 16, 16, 16, 16, 0]
        assert quantize(y, 17, alpha=0.05, impl=impl)[[0, 1, 6, 7]].tolist() == [0, 0, 16, 16]


@pytest.mark.parametrize("dtype", FLOATS)
def test_quantize_kernel_is_the_definition(dtype):
    y = (torch.rand(5, 1031, generator=torch.Generator().manual_seed(0)) * 1.2 - 0.1).to(dtype)
    for levels in (2, 17, 256, 65536):
        assert torch.equal(quantize(y, levels), quantize(y, levels, impl="torch"))
        assert torch.equal(quantize(y.t(), levels), quantize(y, levels).t())


def test_noise_is_that_of_the_key_and_does_not_depend_on_how_the_batch_is_cut():
    x, key = torch.zeros(20, 3, 5, 7, dtype=torch.uint8), random.key(4)
    whole, _ = dequantize(x, 256, key=key)
    torch.testing.assert_close(whole * 256, random.uniform(key, x.shape), rtol=0, atol=0)
    parts = [dequantize(x[i : i + n], 256, key=key, sample_offset=i)[0] for i, n in ((0, 1), (1, 12), (13, 7))]
    assert torch.equal(torch.cat(parts), whole)
    again = [dequantize(x, 256, generator=torch.Generator().manual_seed(5))[0] for _ in range(2)]
    assert torch.equal(*again) and not torch.equal(again[0], whole)
    torch.manual_seed(0)
    assert not torch.equal(dequantize(x, 256)[0], dequantize(x, 256)[0])


def test_values_do_not_depend_on_the_number_of_threads():
    x, key = integers((7, 30011), 256), random.key(6)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = dequantize(x, 256, key=key, alpha=0.05)
    finally:
        torch.set_num_threads(threads)
    assert_same_bits(dequantize(x, 256, key=key, alpha=0.05), alone)


@pytest.mark.parametrize("levels", [2, 17, 256, 65536])
def test_the_uniform_density_costs_log2_of_the_levels(levels):
    x = integers((3, 4, 5), levels)
    _, log_det = dequantize(x, levels, dtype=torch.float64)
    torch.testing.assert_close(bits_per_dim(log_det, 20), torch.full((3,), math.log2(levels)).double())
    if levels in (2, 256, 65536):
        assert torch.equal(bits_per_dim(log_det, 20), torch.full((3,), math.log2(levels)).double())


def test_the_uniform_density_costs_the_same_behind_logits():
    """In expectation over noise the logits' volume is the entropy of the uniform density in logit space."""
    alpha, x = 0.05, integers((64, 4096), 256)
    z, log_det = dequantize(x, 256, alpha=alpha, key=random.key(0), dtype=torch.float64)
    p = torch.sigmoid(z)
    log_density = (torch.log(p * (1 - p)) - math.log1p(-2 * alpha)).sum(1)  # of z, when y is uniform
    torch.testing.assert_close(bits_per_dim(log_density + log_det, 4096), torch.full((64,), 8.0).double())


@pytest.mark.parametrize("alpha", [1e-6, 0.05, 0.4])
def test_log_det_of_the_logits_is_that_of_the_jacobian(alpha):
    y = torch.rand(3, 2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z, log_det = logit_transform(y, alpha)
    assert (log_det - jacobian_log_det(lambda y: logit_transform(y, alpha)[0], y)).abs().max() < 1e-9
    back, log_det_back = logit_transform(z, alpha, inverse=True)
    assert (back - y).abs().max() < 1e-12 and (log_det + log_det_back).abs().max() < 1e-9
    backwards = jacobian_log_det(lambda z: logit_transform(z, alpha, inverse=True)[0], z)
    assert (log_det_back - backwards).abs().max() < 1e-9
    _, constant = dequantize(torch.zeros(1, 10, dtype=torch.uint8), 4, dtype=torch.float64)
    x = integers((1, 10), 4)
    value, _ = dequantize(x, 4, key=random.key(1), dtype=torch.float64)
    z, found = dequantize(x, 4, key=random.key(1), dtype=torch.float64, alpha=alpha)
    wanted, volume = logit_transform(value, alpha)
    torch.testing.assert_close(z, wanted)
    torch.testing.assert_close(found, volume + constant)


def test_logit_transform_has_first_and_second_derivatives_and_wide_log_dets():
    y = torch.rand(3, 4, dtype=torch.float64).requires_grad_()
    for inverse in (False, True):
        assert torch.autograd.gradcheck(lambda y: logit_transform(y, 0.05, inverse=inverse), y, check_forward_ad=True)  # noqa: B023
        assert torch.autograd.gradgradcheck(lambda y: logit_transform(y, 0.05, inverse=inverse), y)  # noqa: B023
    z, log_det = logit_transform(torch.rand(3, 4).bfloat16())
    assert z.dtype == torch.bfloat16 and log_det.dtype == torch.float32
    _, log_det = logit_transform(torch.tensor([[1e4, -1e4]]), 0.05, inverse=True)
    assert log_det.isfinite().all()


def test_levels_out_of_range_are_nan():
    x = torch.tensor([[0, 16], [17, 3], [-1, 3]])
    for impl in ("auto", "torch"):
        y, _ = dequantize(x, 17, impl=impl)
        assert torch.equal(y.isnan(), (x < 0) | (x > 16))
        z, log_det = dequantize(x, 17, alpha=0.05, impl=impl)
        assert torch.equal(z.isnan(), (x < 0) | (x > 16)) and log_det.isnan().tolist() == [False, True, True]


@pytest.mark.parametrize("alpha", [None, 0.05])
def test_compiled_and_exported_equal_eager(alpha):
    def there_and_back(x, key):
        y, log_det = dequantize(x, 256, key=key, alpha=alpha)
        return y, log_det, quantize(y, 256, alpha=alpha)

    x, key = integers((4, 3, 5), 256, torch.uint8), random.key(8)
    torch._dynamo.reset()
    eager = there_and_back(x, key)
    assert_same_bits(torch.compile(there_and_back, fullgraph=True)(x, key), eager)

    class Module(torch.nn.Module):
        def forward(self, x, key):
            return there_and_back(x, key)

    assert_same_bits(torch.export.export(Module(), (x, key)).module()(x, key), eager)


def test_dispatcher_ops_are_well_formed():
    x, ops = integers((4, 5), 256, torch.uint8), torch.ops.genkern
    for alpha in (None, 0.05):
        torch.library.opcheck(ops.dequantize.default, (x, random.key(0), 256, alpha, 1e-6, torch.float32, 3))
        torch.library.opcheck(ops.quantize.default, (torch.rand(4, 5), 256, alpha, torch.uint8))


def test_under_vmap_every_key_draws_its_own_noise():
    x, keys = integers((4, 5), 256), random.split(random.key(0), 3)
    y, log_det = torch.vmap(lambda key: dequantize(x, 256, key=key, alpha=0.05))(keys)
    wanted = [dequantize(x, 256, key=key, alpha=0.05) for key in keys]
    torch.testing.assert_close(y, torch.stack([value for value, _ in wanted]))
    torch.testing.assert_close(log_det, torch.stack([value for _, value in wanted]))
    assert torch.equal(torch.vmap(lambda y: quantize(y, 256, alpha=0.05))(y), quantize(y, 256, alpha=0.05))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda x: dequantize(x.float(), 4), TypeError, "dequantize: x must be uint8, .* got torch.float32"),
        (lambda x: dequantize(x, 1), ValueError, "dequantize: levels must be an int from 2 to 65536; got 1"),
        (lambda x: dequantize(x, 4, alpha=0.5), ValueError, "dequantize: alpha must be None or in .* got 0.5"),
        (lambda x: dequantize(x, 4, key=3), TypeError, "dequantize: key must be an int64 tensor; got int"),
        (lambda x: dequantize(x, 4, key=torch.zeros(2).long()), ValueError, r"key must be one key, .* got \[2\]"),
        (lambda x: dequantize(x, 4, sample_offset=-1), ValueError, "sample_offset must be at least 0; got -1"),
        (lambda x: dequantize(x, 4, dtype=torch.int32), TypeError, "dtype must be float32, .*got torch.int32"),
        (lambda x: dequantize(x, 4, impl="fast"), ValueError, "dequantize: impl must be 'auto' or 'torch'; got 'fast'"),
        (lambda x: quantize(x, 4), TypeError, "quantize: y must be float32, .* got torch.int32"),
        (lambda x: quantize(x.float(), 257, dtype=torch.uint8), ValueError, "dtype must be wide enough for 257 levels"),
        (lambda x: bits_per_dim(x.float(), 0), ValueError, "bits_per_dim: dims must be at least 1; got 0"),
        (lambda x: logit_transform(x.float(), 0.7), ValueError, "logit_transform: alpha must be"),
    ],
)
def test_errors_name_the_argument(call, error, text):
    with pytest.raises(error, match=text):
        call(torch.zeros(2, 3, dtype=torch.int32))


@pytest.mark.parametrize("alpha", [None, 0.05])
def test_given_noise_takes_the_place_of_what_would_be_drawn(alpha: float | None) -> None:
    x, u = torch.arange(12).reshape(3, 4), random.uniform(random.key(2), (3, 4))
    drawn, given = dequantize(x, 12, alpha=alpha, key=random.key(2)), dequantize(x, 12, alpha=alpha, noise=u)
    torch.testing.assert_close(given, drawn)
    u = u.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda u: dequantize(x, 12, alpha=alpha, noise=u, dtype=torch.float64), u)
    for edge in (torch.zeros(3, 4), torch.ones(3, 4)):
        assert torch.equal(quantize(dequantize(x, 12, alpha=alpha, noise=edge)[0], 12, alpha=alpha).long(), x)
    with pytest.raises(ValueError, match="noise must be alone, without key or generator"):
        dequantize(x, 12, noise=u, key=random.key(2))
    with pytest.raises(ValueError, match="noise must be of the shape of x .3, 4."):
        dequantize(x, 12, noise=u[:2])
