"""Residual flows: the estimates, their gradients, what they keep in memory, and the inverse."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from genkern import random
from genkern.nn import (
    ActNorm,
    ExactLogDet,
    FlowSequential,
    LipSwish,
    PowerSeries,
    ResidualFlow,
    RussianRoulette,
    SpectralConv2d,
    SpectralLinear,
)
from genkern.nn.flows.lipschitz import held
from genkern.nn.flows.replay import noise_of
from genkern.nn.flows.residual import estimated, exact, log_det_of_one_plus
from genkern.nn.memory import bytes_saved
from genkern.ops import concat_elu
from genkern.testing import check_flow


def network(size: int = 4, hidden: int = 8, bound: float = 0.7, scale: float = 3.0) -> nn.Module:
    torch.manual_seed(0)
    first, last = SpectralLinear(size, hidden, bound=bound), SpectralLinear(hidden, size, bound=bound)
    with torch.no_grad():
        first.weight.mul_(scale), last.weight.mul_(scale)
    return nn.Sequential(first, LipSwish(), last).double().eval()


def data(batch: int = 3, size: int = 4) -> Tensor:
    return torch.randn(batch, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def every_direction(x: Tensor) -> list[Tensor]:
    """Vectors whose average of v vᵀ is the identity: with them an average of estimates is an exact trace."""
    size = x.shape[1]
    return [math.sqrt(size) * torch.eye(size, dtype=x.dtype)[i].expand_as(x) for i in range(size)]


def test_the_series_of_exact_traces_converges_to_the_log_det() -> None:
    g, x = network(), data()
    truth = exact(g, x)[1]
    errors = []
    for terms in (2, 8, 40):
        found = torch.stack([estimated(g, x, None, v, [1.0] * terms)[1] for v in every_direction(x)]).mean(0)
        errors.append((found - truth).abs().max().item())
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-8


@pytest.mark.parametrize("weights", [[1.0] * 6, [1.0, 1.0, 1.0, 2.0, 4.0]])
def test_the_neumann_gradient_is_that_of_the_series(weights: list[float]) -> None:
    """Of sum_k (-1)^(k+1) c_k tr(J^k) / k, by autograd through the whole Jacobian, for each sample's own weight."""
    g, x = network(), data().requires_grad_()
    leaves = [x, *g.parameters()]
    share = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)

    value = g(x)
    rows = [torch.autograd.grad(value[:, i].sum(), x, create_graph=True)[0] for i in range(4)]
    jacobian, power, series = torch.stack(rows, 1), torch.eye(4, dtype=x.dtype).expand(3, 4, 4), 0.0
    for k, weight in enumerate(weights, 1):
        power = power @ jacobian
        series = series + (-1) ** (k + 1) * weight / k * power.diagonal(dim1=1, dim2=2).sum(1)
    wanted = torch.autograd.grad((share * series).sum(), leaves, materialize_grads=True)  # the last bias has none

    log_det = torch.stack([estimated(g, x, None, v, weights)[1] for v in every_direction(x)]).mean(0)
    assert_close(log_det, series)
    found = torch.autograd.grad((share * log_det).sum(), leaves, materialize_grads=True)
    for grad, expected in zip(found, wanted, strict=True):
        assert_close(grad, expected, rtol=1e-9, atol=1e-9)


def test_every_sample_has_its_own_weight_in_the_gradient() -> None:
    g, x, v = network(), data(), torch.randn(3, 4, dtype=torch.float64)
    parameters = list(g.parameters())
    alone = [
        torch.autograd.grad(estimated(g, x[i : i + 1], None, v[i : i + 1], [1.0] * 5)[1].sum(), parameters)
        for i in range(3)
    ]
    share = [1.0, 0.0, -3.0]
    together = estimated(g, x, None, v, [1.0] * 5)[1] @ torch.tensor(share, dtype=torch.float64)
    for i, grad in enumerate(torch.autograd.grad(together, parameters)):
        assert_close(grad, sum(s * grads[i] for s, grads in zip(share, alone, strict=True)))


def test_the_roulette_has_no_bias() -> None:
    """The expectation over the number of terms, summed with its probabilities, is the whole series."""
    g, x, v = network(), data(), torch.randn(3, 4, dtype=torch.float64)
    roulette, whole = RussianRoulette(terms=2, p=0.5), estimated(g, x, None, v, [1.0] * 44)[1]
    mean = torch.zeros_like(whole)
    for more in range(1, 40):
        weights = [1.0] * roulette.terms + [(1 - roulette.p) ** -k for k in range(more)]
        mean += roulette.p * (1 - roulette.p) ** (more - 1) * estimated(g, x, None, v, weights)[1]
    assert_close(mean, whole, rtol=1e-6, atol=1e-8)
    torch.manual_seed(0)
    lengths = torch.tensor([float(len(roulette.weights())) for _ in range(4000)])
    assert abs(lengths.mean() - 4) < 0.1 and lengths.min() == 3
    assert roulette.weights()[:4] in ([1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 2.0])


def test_memory_is_flat_in_the_number_of_terms() -> None:
    x = torch.randn(16, 6, 8, 8)
    g = nn.Sequential(SpectralConv2d(6, 64, 3, (8, 8)), LipSwish(), SpectralConv2d(64, 6, 3, (8, 8)))
    saved = []
    for terms in (1, 4, 16):
        layer = ResidualFlow(g, log_det=PowerSeries(terms))
        saved.append(bytes_saved(layer, x) / (x.numel() * 4))
    assert saved[0] == saved[1] == saved[2] <= 3.01  # x, v and the Neumann vector


def test_a_network_that_is_kept_gives_the_same_gradients_and_is_flat_in_the_number_of_terms_too() -> None:
    g, v, x = network(), torch.randn(3, 4, dtype=torch.float64), data().requires_grad_()
    found, share = [], torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    for recompute in (True, False):
        z, log_det = estimated(g, x, None, v, [1.0] * 5, recompute=recompute)
        total = z.square().sum() - log_det @ share
        found.append(torch.autograd.grad(total, [x, *g.parameters()], retain_graph=True))
        found.append(torch.autograd.grad(total, [x, *g.parameters()]))
    for again in found[1:]:
        assert_close(again, found[0], rtol=1e-12, atol=1e-12)
    layers = [ResidualFlow(g, log_det=PowerSeries(terms), recompute=False) for terms in (1, 16)]
    first, last = (bytes_saved(layer, x) for layer in layers)
    assert first == last > bytes_saved(ResidualFlow(g, log_det=PowerSeries(1)), x)


def test_a_series_is_the_same_in_a_graph_that_is_traced() -> None:
    layer = ResidualFlow(network(), log_det=PowerSeries(5), evaluation=PowerSeries(9))
    x = data().requires_grad_()
    for mode in (False, True):
        layer.train(mode)
        state = copy.deepcopy(layer.state_dict())
        torch._dynamo.reset()
        found = []
        for run in (layer, torch.compile(layer, fullgraph=True, backend="aot_eager")):
            layer.load_state_dict(state)  # training moves the power iteration
            torch.manual_seed(0)
            z, log_det = run(x)
            total = z.square().sum() - log_det.sum()
            found.append([z, log_det, *torch.autograd.grad(total, [x, *layer.parameters()]), *layer.buffers()])
        assert_close(found[0], found[1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("estimator", [ExactLogDet(), PowerSeries(6)])
def test_an_exported_layer_is_the_same_whatever_its_network_is_made_of(estimator) -> None:
    """An export differentiates forwards, where the dispatcher ops of genkern say zero."""

    class Concatenated(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return concat_elu(x)

    g = nn.Sequential(SpectralLinear(4, 6, bound=0.6), Concatenated(), SpectralLinear(12, 4, bound=0.6))
    layer, x = ResidualFlow(g, log_det=estimator, evaluation=estimator).double().eval(), data()
    torch.manual_seed(0)
    program = torch.export.export(layer, (x,)).module()
    torch.manual_seed(0)
    found = program(x)
    torch.manual_seed(0)
    wanted = layer(x)
    assert_close(found, wanted)
    assert (wanted[1].abs() > 1e-3).all()


def test_a_roulette_is_not_exported() -> None:
    with pytest.raises(RuntimeError, match=r"the length of a roulette is drawn on the host.* use evaluation=PowerSer"):
        torch.export.export(ResidualFlow(network()).eval(), (data(),))


@pytest.mark.parametrize("policy", ["store", "checkpoint", "invert"])
def test_estimates_are_the_same_under_every_memory_policy(policy: str) -> None:
    torch.manual_seed(0)
    flow = FlowSequential(
        *(layer for _ in range(3) for layer in (ActNorm(4), ResidualFlow(network(), log_det=RussianRoulette()))),
        policy=policy, every=4,
    ).double().train()  # fmt: skip
    flow.initialize(data(8))
    plain = copy.deepcopy(flow)
    plain.policy = "store"
    parts = {id(flow): (slice(0, 3), slice(3, 8)), id(plain): (slice(0, 8),)}  # shards draw what the whole draws
    for candidate in (flow, plain):
        for part in parts[id(candidate)]:
            torch.manual_seed(part.stop)
            with noise_of(candidate, random.key(5), part.start), held(candidate):
                z, log_det = candidate(data(8)[part].requires_grad_())
            (z.square().sum() - (log_det * torch.arange(8)[part]).sum()).backward()
    for left, right in zip(flow.parameters(), plain.parameters(), strict=True):
        assert_close(left.grad, right.grad, rtol=1e-9, atol=1e-9)


def test_the_exact_log_det_of_pictures_and_vectors_is_that_of_the_jacobian() -> None:
    torch.manual_seed(0)
    conv = nn.Sequential(SpectralConv2d(2, 4, 3, (2, 3)), nn.ELU(), SpectralConv2d(4, 2, 3, (2, 3)))
    check_flow(ResidualFlow(conv, log_det=ExactLogDet()), (2, 2, 3), second_order=False)
    jacobian = 0.3 * torch.randn(5, 2, 2, dtype=torch.float64)
    wanted = torch.linalg.slogdet(torch.eye(2, dtype=torch.float64) + jacobian).logabsdet
    assert_close(log_det_of_one_plus(jacobian), wanted)


def test_a_layer_with_estimates_passes_what_estimates_can() -> None:
    check_flow(ResidualFlow(network()), (4,), exact=False, second_order=False, compiles=False)


def test_an_estimate_has_a_known_error() -> None:
    layer = ResidualFlow(network(), noise="gaussian").double()
    x = data(6)
    mean, error = layer.error_of(x, key=random.key(3), draws=200)
    truth = exact(layer.network, x)[1]
    assert ((mean - truth).abs() <= 5 * error + 1e-3).all() and (error > 0).all()
    assert torch.equal(layer.error_of(x, key=random.key(3), draws=200)[0], mean)
    assert layer.training and len(layer.evaluation.weights()) > 20


@pytest.mark.parametrize("noise", ["rademacher", "gaussian"])
def test_noise_follows_from_the_generator_or_a_key_and_the_index_of_the_sample(noise: str) -> None:
    layer, x = ResidualFlow(network(), noise=noise).double(), data(6)

    def log_det(part: slice, key: int | None, offset: int = 0) -> Tensor:
        with noise_of(layer, None if key is None else random.key(key), offset), held(layer):
            return layer(x[part])[1]

    for mode in (True, False):
        layer.train(mode)
        everything = slice(0, 6)
        torch.manual_seed(8)
        first, second = log_det(everything, None), log_det(everything, None)
        torch.manual_seed(8)
        assert torch.equal(log_det(everything, None), first) and not torch.equal(first, second)
        before = torch.get_rng_state()
        keyed = log_det(everything, 4)
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(10)
        assert_close(log_det(slice(2, 6), 4, offset=2), keyed[2:], rtol=0, atol=1e-12)
        assert not torch.equal(log_det(everything, 5), keyed)


def test_signs_of_low_precision_are_signs() -> None:
    layer = ResidualFlow(network())
    v = layer.vectors(torch.zeros(64, 1000, dtype=torch.bfloat16))
    assert v.dtype == torch.bfloat16 and torch.equal(v.abs(), torch.ones_like(v))
    assert abs(v.float().mean()) < 5 / 64000**0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_inverse_is_reached_or_says_by_how_much_not(dtype: torch.dtype) -> None:
    layer = ResidualFlow(network(bound=0.95), log_det=ExactLogDet()).to(dtype).eval()
    x = data(20).to(dtype)
    back, _ = layer.inverse(layer(x)[0])
    assert (back - x).abs().max() < 1e3 * torch.finfo(dtype).eps
    layer.max_iterations = 8
    with pytest.raises(RuntimeError, match="changed by .* after 8 iterations, wanted"):
        layer.inverse(x)
    assert layer.inverse(x[:0])[0].shape == (0, 4)


def test_the_inverse_in_training_is_that_of_one_map() -> None:
    """Power iteration goes on with every forward pass, but not while an inverse iterates."""
    layer = ResidualFlow(network(), log_det=ExactLogDet()).train()
    back, _ = layer.inverse(data())
    before = copy.deepcopy(layer.state_dict())
    layer.inverse(data())
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    layer(back)
    assert not all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


def test_gradients_through_the_inverse_are_those_of_the_implicit_function() -> None:
    g = network()
    layer = ResidualFlow(g, log_det=ExactLogDet()).double().eval()
    z = data().requires_grad_()
    leaves = [z, *g.parameters()]

    def unrolled(z: Tensor) -> Tensor:
        x = z
        for _ in range(200):
            x = z - g(x)
        return x

    cotangent = torch.randn(3, 4, dtype=torch.float64)
    found = torch.autograd.grad(layer.inverse(z)[0], leaves, cotangent)
    for grad, wanted in zip(found, torch.autograd.grad(unrolled(z), leaves, cotangent), strict=True):
        assert_close(grad, wanted, rtol=1e-8, atol=1e-9)
    x, log_det = layer.inverse(z)
    for grad in torch.autograd.grad(x.sum() + log_det.sum(), leaves):
        assert grad.isfinite().all()


def test_the_context_reaches_the_network_and_has_a_gradient() -> None:
    class Conditioned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = SpectralLinear(4, 4, bound=0.5)

        def forward(self, x: Tensor, context: Tensor) -> Tensor:
            return self.inner(x).tanh() * context.sigmoid()

    for estimator in (ExactLogDet(), PowerSeries(6)):
        layer = ResidualFlow(Conditioned(), log_det=estimator).double()
        x, context = data(), torch.randn(3, 1, dtype=torch.float64, requires_grad=True)
        z, log_det = layer(x, context)
        (grad,) = torch.autograd.grad(z.sum() + log_det.sum(), context, retain_graph=True)
        assert (grad != 0).all()
        layer.eval()
        back, _ = layer.inverse(layer(x, context)[0].detach(), context)
        assert_close(back, x, rtol=0, atol=1e-10)
        assert torch.autograd.grad(back.sum(), context)[0].isfinite().all()


def test_a_second_derivative_of_an_estimate_is_refused() -> None:
    layer, x = ResidualFlow(network()).double(), data().requires_grad_()
    with pytest.raises(RuntimeError, match="second derivatives are not implemented .* use log_det=ExactLogDet"):
        torch.autograd.grad(layer(x)[1].sum(), x, create_graph=True)
    with pytest.raises(ValueError, match="noise must be 'rademacher' or 'gaussian'; got 'cauchy'"):
        ResidualFlow(network(), noise="cauchy")
