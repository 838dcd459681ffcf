import pytest
import torch

from genkern import random
from genkern.ops import diffusion_loss, q_sample
from genkern.testing import Case, OpSuite, assert_same_bits

KEY = {"key": random.key(3)}


def velocity(output, x0, alpha, sigma, **options):
    return diffusion_loss(output, x0, alpha, sigma, prediction_type="v_prediction", **options)


def any_target(output, x0, p, q, weight, **options):
    return diffusion_loss(output, x0, target=(p, q), weight=weight, **options)


def pair(*shape):
    return {"output": shape, "x0": shape}


class TestDiffusionLoss(OpSuite):
    cases = [
        Case("epsilon", diffusion_loss, pair(3, 5, 7, 3), KEY),
        Case("sample", diffusion_loss, pair(2, 3, 29, 53), KEY | {"prediction_type": "sample"}),
        Case("velocity", velocity, pair(70, 3) | {"alpha": (70,), "sigma": (70,)}, KEY),
        Case("any", any_target, pair(3, 1100) | dict.fromkeys(("p", "q", "weight"), (3,)), KEY | {"sample_offset": 7}),
    ]


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("shape", [(4, 3, 8, 8), (3, 2050), (70, 3), (5,), (2, 0)])
def test_it_is_the_weighted_mean_squared_error_of_the_target(prediction_type, shape):
    x0, output, key = torch.randn(shape), torch.randn(shape), random.key(1)
    alpha, weight = torch.rand(2, shape[0])
    sigma = (1 - alpha**2).sqrt()
    noise = random.normal(key, shape, sample_offset=3)
    a, s, w = (value.reshape(-1, *(1,) * (len(shape) - 1)) for value in (alpha, sigma, weight))
    target = {"epsilon": noise, "v_prediction": a * noise - s * x0, "sample": x0}[prediction_type]
    wanted = (w * (output - target) ** 2).reshape(shape[0], -1).sum(1) / max(x0[0].numel(), 1)
    given = {"prediction_type": prediction_type, "weight": weight}
    found = diffusion_loss(output, x0, alpha, sigma, key=key, sample_offset=3, **given)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(diffusion_loss(output, x0, alpha, sigma, noise=noise, **given), wanted)


def test_the_right_answer_costs_nothing():
    """A network that inverts q_sample exactly has a loss of 0 for every prediction type."""
    x0, key = torch.randn(4, 3, 8, 8, dtype=torch.float64), random.key(1)
    alpha, sigma = torch.tensor([[0.6], [0.8]], dtype=torch.float64)
    x_t = q_sample(x0, alpha.expand(4), sigma.expand(4), key=key)
    noise = (x_t - alpha * x0) / sigma
    answers = {"epsilon": noise, "v_prediction": alpha * noise - sigma * x0, "sample": x0}
    for prediction_type, output in answers.items():
        loss = diffusion_loss(output, x0, 0.6, 0.8, key=key, prediction_type=prediction_type)
        assert loss.max() < 1e-28


def test_timesteps_look_every_coefficient_up():
    table, t = torch.rand(3, 10), torch.tensor([3, 9])
    x0, output, key = torch.randn(2, 5), torch.randn(2, 5), random.key(0)
    alpha, sigma, weight = table
    found = diffusion_loss(output, x0, target=(-sigma, alpha), weight=weight, timesteps=t, key=key)
    wanted = velocity(output, x0, alpha[t], sigma[t], weight=weight[t], key=key)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_loss_is_float32_for_half_precision(dtype):
    x0, output = torch.randn(2, 3, 700).to(dtype)
    found = diffusion_loss(output, x0, key=random.key(0))
    exact = diffusion_loss(output.double(), x0.double(), key=random.key(0), impl="torch")
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact.float(), rtol=2e-7, atol=0)


def test_a_sample_does_not_depend_on_its_batch():
    key, x0, output = random.key(1), torch.randn(9, 300), torch.randn(9, 300)
    parts = [diffusion_loss(output[i:j], x0[i:j], key=key, sample_offset=i) for i, j in ((0, 1), (1, 6), (6, 9))]
    assert_same_bits(torch.cat(parts), diffusion_loss(output, x0, key=key))


def test_nothing_is_stored_for_the_backward_pass_but_what_was_given():
    given = [torch.randn(4, 3, 8, 8, requires_grad=True), torch.randn(4, 3, 8, 8)]
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        diffusion_loss(*given, key=random.key(0))
    storages = {tensor.untyped_storage().data_ptr() for tensor in given}
    assert saved and all(x.numel() <= 4 or x.untyped_storage().data_ptr() in storages for x in saved)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({}, ValueError, "key must be given, or noise, and not both; got neither"),
        ({"key": random.key(0), "noise": torch.zeros(2, 3)}, ValueError, "key must be given, .* got both"),
        ({"key": 1}, TypeError, "key must be an int64 tensor; got int"),
        ({"noise": torch.zeros(3)}, ValueError, r"noise must be of the shape of output \[2, 3\]; got \[3\]"),
        ({"key": random.key(0), "prediction_type": "eps"}, ValueError, "prediction_type must be one of .* got 'eps'"),
        ({"key": random.key(0), "prediction_type": "v_prediction"}, ValueError, "alpha must be given for v_prediction"),
        ({"key": random.key(0), "target": 1.0}, ValueError, r"target must be a pair \(p, q\); got 1.0"),
        (
            {"key": random.key(0), "weight": torch.ones(3)},
            ValueError,
            r"weight must be \[\] or \[B\] = \[2\]; got \[3\]",
        ),
        ({"key": random.key(0), "x0": torch.zeros(2, 4)}, ValueError, "x0 must be of the shape of output"),
        ({"key": random.key(0), "sample_offset": -1}, ValueError, "sample_offset must be at least 0; got -1"),
        ({"key": random.key(0), "impl": "fast"}, ValueError, "impl must be 'auto' or 'torch'; got 'fast'"),
    ],
)
def test_errors_name_the_argument(options, error, text):
    with pytest.raises(error, match=f"diffusion_loss: {text}"):
        diffusion_loss(torch.zeros(2, 3), options.pop("x0", torch.zeros(2, 3)), **options)
