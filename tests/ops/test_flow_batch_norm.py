import math

import pytest
import torch

from genkern.ops import flow_batch_norm
from genkern.ops.flow_batch_norm import reference
from genkern.testing import Case, OpSuite, assert_within_rule, jacobian_log_det

IMAGE = {"x": (3, 5, 4, 3), "log_scale": (5,), "bias": (5,)}
LONG = {"x": (2, 3, 33, 37), "log_scale": (3,), "bias": (3,)}
VECTOR = {"x": (150, 7), "log_scale": (7,), "bias": (7,)}
RUNNING = {
    "running_mean": torch.tensor([0.5, -1.0, 2.0, 0.0, 1.0]),
    "running_var": torch.tensor([1.0, 0.3, 2.0, 5.0, 0.1]),
}


def training(x, log_scale, bias, impl="auto"):
    """Off zero in the log-scale, so that log-determinants do not cancel and ulps of them mean something."""
    return flow_batch_norm(x, log_scale + 2.0, bias, None, None, training=True, impl=impl)


def off_centre(x, log_scale, bias, impl="auto"):
    return training(x + 8.0, log_scale, bias, impl=impl)


def given(x, log_scale, bias):
    dims = [d for d in range(x.dim()) if d != 1]
    statistics = (x.mean(dims), x.var(dims, correction=0), x.numel() // x.shape[1])
    return flow_batch_norm(x, log_scale + 2.0, bias, None, None, training=True, statistics=statistics)


class TestFlowBatchNorm(OpSuite):
    cases = [
        Case("training", training, IMAGE, batched=False),
        Case("training-vectors", training, VECTOR, batched=False),
        Case("training-long", off_centre, LONG, batched=False),
        Case("evaluation", flow_batch_norm, IMAGE, RUNNING | {"training": False}, batched=False),
        Case("inverse", flow_batch_norm, IMAGE, RUNNING | {"training": False, "inverse": True}, batched=False),
    ]


def parameters(channels, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(channels, generator=generator, dtype=dtype) for _ in range(2)]


def fresh(channels, dtype=torch.float64):
    return torch.zeros(channels, dtype=dtype), torch.ones(channels, dtype=dtype)


def test_evaluation_has_the_log_det_of_its_jacobian():
    x, running = torch.randn(3, 5, 2, 2, dtype=torch.float64), [v.double() for v in RUNNING.values()]

    def evaluate(x, inverse=False):
        return flow_batch_norm(x, *parameters(5, x.dtype), *running, training=False, inverse=inverse)

    for inverse in (False, True):
        expected = jacobian_log_det(lambda x, inverse=inverse: evaluate(x, inverse)[0], x)
        assert (evaluate(x, inverse)[1] - expected).abs().max() <= 1e-9


def test_training_has_the_log_det_of_the_map_with_held_statistics():
    x, (s, b) = torch.randn(4, 5, 3, dtype=torch.float64), parameters(5)
    mean, variance = reference.statistics(x)
    _, log_det = flow_batch_norm(x, s, b, None, None, training=True)
    held = jacobian_log_det(lambda x: flow_batch_norm(x, s, b, mean, variance, training=False)[0], x)
    assert (log_det - held).abs().max() <= 1e-9


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_inverse_undoes_evaluation(dtype, tolerance):
    x, running = torch.randn(4, 5, 6, 6, dtype=dtype), [v.to(dtype) for v in RUNNING.values()]
    y, log_det = flow_batch_norm(x, *parameters(5, dtype), *running, training=False)
    back, log_det_back = flow_batch_norm(y, *parameters(5, dtype), *running, training=False, inverse=True)
    assert (back - x).abs().max() <= tolerance * max(1, y.abs().max())
    assert torch.equal(log_det, -log_det_back)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (9, 4), (5, 4, 50)])
def test_values_and_running_statistics_are_those_of_torch(dtype, shape):
    x = (3.0 * torch.randn(shape) + 1.0).to(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    (s, b), ours, theirs = parameters(4, wide), fresh(4, wide), fresh(4, wide)
    for _ in range(3):
        y, _ = flow_batch_norm(x, s, b, *ours, training=True, momentum=0.2)
        expected = torch.nn.functional.batch_norm(x.to(wide), *theirs, s.exp(), b, training=True, momentum=0.2)
    torch.testing.assert_close(y, expected.to(dtype))
    torch.testing.assert_close(ours, theirs)


def test_given_statistics_of_the_batch_change_nothing():
    """The way of several processes: gradients go through statistics that come from outside."""
    x = torch.randn(3, 5, 4, 3, dtype=torch.float64, requires_grad=True)
    s, b = (p.requires_grad_() for p in parameters(5))
    inside, outside = training(x, s, b), given(x, s, b)
    torch.testing.assert_close(inside, outside)
    weights = torch.randn_like(x), torch.randn(3, dtype=torch.float64)
    grads = [torch.autograd.grad(outs, (x, s, b), weights) for outs in (inside, outside)]
    torch.testing.assert_close(*grads)


def test_running_statistics_may_be_given_to_compiled_code():
    x, (s, b), eager, compiled = torch.randn(6, 4, 5), parameters(4, torch.float32), fresh(4), fresh(4)
    eager, compiled = ([v.float() for v in pair] for pair in (eager, compiled))
    torch._dynamo.reset()
    y, log_det = torch.compile(flow_batch_norm, fullgraph=True)(x, s, b, *compiled, training=True)
    wanted = flow_batch_norm(x, s, b, *eager, training=True)
    torch.testing.assert_close((y, log_det), wanted)
    torch.testing.assert_close(compiled, eager)


def test_log_det_of_three_thousand_narrow_channels_is_finite():
    """A product of 3072 standard deviations of 0.01 is 0 in any floating type; a sum of logarithms is not."""
    x = 0.01 * torch.randn(64, 3072, generator=torch.Generator().manual_seed(0))
    zeros, ones = torch.zeros(3072), torch.ones(3072)
    for running in ((zeros.clone(), ones.clone()), (zeros, 1e-4 * ones)):
        _, log_det = flow_batch_norm(x, zeros, zeros, *running, training=running[1][0] == 1)
        assert log_det.isfinite().all()
        assert log_det[0] == pytest.approx(-3072 * math.log(0.01), rel=0.02)


def test_constant_channels_give_the_bias_and_finite_gradients():
    x = torch.randn(8, 3, 4, 4)
    x[:, 1] = 7.0
    x.requires_grad_()
    s, b = torch.zeros(3, requires_grad=True), torch.tensor([0.0, 2.0, 0.0], requires_grad=True)
    y, log_det = flow_batch_norm(x, s, b, *fresh(3, torch.float32), training=True)
    assert torch.equal(y[:, 1], torch.full((8, 4, 4), 2.0))
    grads = torch.autograd.grad(y.square().sum() + log_det.sum(), (x, s, b))
    assert all(tensor.isfinite().all() for tensor in (y, log_det, *grads))


@pytest.mark.parametrize("shape", [(64, 3, 16, 16), (700, 3), (8, 3, 5, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_variance_survives_a_mean_of_a_thousand_deviations_and_an_outlier_in_front(shape, dtype):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    x[:, 1] += 1000.0
    x[0, 2] = 300.0
    x = x.to(dtype)
    running = fresh(3)
    flow_batch_norm(x, torch.zeros(3), torch.zeros(3), *running, training=True, momentum=1.0)
    plain = reference.statistics(x.float())
    truth = reference.statistics(x.double())
    count = x.numel() // 3
    for kernel, p, t in zip((running[0], running[1] * (count - 1) / count), plain, truth, strict=True):
        for c in range(3):
            assert_within_rule(kernel[c].to(p.dtype), p[c], t[c], what=f"channel {c}")


def test_extreme_log_scales_stay_finite():
    x = torch.randn(8, 2, 5, requires_grad=True)
    s, b = torch.tensor([80.0, -100.0], requires_grad=True), torch.zeros(2, requires_grad=True)
    y, log_det = flow_batch_norm(x, s, b, None, None, training=True)
    grads = torch.autograd.grad(y.sum() * 1e-30 + log_det.sum(), (x, s, b))
    assert all(tensor.isfinite().all() for tensor in (y, log_det, *grads))


def test_an_empty_batch_leaves_running_statistics_alone():
    x = torch.zeros(0, 3, 4, requires_grad=True)
    s, b, running = torch.zeros(3, requires_grad=True), torch.zeros(3), fresh(3, torch.float32)
    y, log_det = flow_batch_norm(x, s, b, *running, training=True)
    assert y.shape == (0, 3, 4) and log_det.shape == (0,)
    grad_x, grad_s = torch.autograd.grad(y.sum() + log_det.sum(), (x, s))
    assert grad_x.shape == x.shape and torch.equal(grad_s, torch.zeros(3))
    assert torch.equal(running[0], torch.zeros(3)) and torch.equal(running[1], torch.ones(3))
    assert flow_batch_norm(x, s, b, *running, training=False)[0].shape == (0, 3, 4)


def test_a_batch_of_one_image_works_in_training_and_one_of_one_vector_says_why_not():
    s, b = parameters(3, torch.float32)
    y, _ = flow_batch_norm(torch.randn(1, 3, 4, 4), s, b, None, None, training=True)
    torch.testing.assert_close(y.mean((0, 2, 3)), b)
    with pytest.raises(ValueError, match=r"flow_batch_norm: x must be of more than one value .* got \[1, 3\]"):
        flow_batch_norm(torch.randn(1, 3), s, b, None, None, training=True)


@pytest.mark.parametrize("order", [(0, 2, 3, 1), (1, 0, 2, 3), (2, 0, 3, 1)])
def test_any_order_of_dimensions_is_kept_and_changes_nothing(order):
    x, (s, b) = torch.randn(5, 40, 7, 6, dtype=torch.float64), parameters(40)
    laid = x.permute(order).contiguous().permute([order.index(d) for d in range(4)]).requires_grad_()
    x.requires_grad_()
    results = [training(value, s, b) for value in (laid, x)]
    assert results[0][0].stride() == laid.stride()
    torch.testing.assert_close(*results)
    weights = torch.randn_like(x)
    totals = [(y * weights).sum() for y, _ in results]
    grads = [torch.autograd.grad(total, value)[0] for total, value in zip(totals, (laid, x), strict=True)]
    assert grads[0].stride() == laid.stride()
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"training": True, "inverse": True}, "training must be False for the inverse"),
        ({"running_mean": None, "running_var": None}, r"running_mean must be \[C\] in evaluation; got None"),
        ({"running_var": None}, "running_var must be given exactly where running_mean is"),
        ({"running_var": torch.ones(5)}, r"running_var must be \[C\]; got \[5\] \(x is \[8, 6\]\)"),
        ({"eps": -1.0}, "eps must be at least 0"),
        ({"momentum": 2.0}, "momentum must be within"),
        ({"statistics": (torch.zeros(6), torch.ones(6), 8)}, "statistics must be None in evaluation"),
    ],
)
def test_errors_name_the_argument(changes, text):
    arguments = {"log_scale": torch.zeros(6), "bias": torch.zeros(6), "running_mean": torch.zeros(6)}
    arguments |= {"running_var": torch.ones(6), "training": False} | changes
    with pytest.raises(ValueError, match=f"flow_batch_norm: {text}"):
        flow_batch_norm(torch.zeros(8, 6), **arguments)
