"""Continuous flows: against the matrix exponential, both estimates of the trace, both gradients, and the solver."""

import sys

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from genkern import random
from genkern.nn import CNF, FlowSequential, VelocityNetwork
from genkern.nn.flows.continuous import positions_only
from genkern.nn.flows.replay import noise_of
from genkern.nn.memory import bytes_saved
from genkern.testing import check_flow

MATRIX = torch.tensor([[0.3, -1.2, 0.4], [0.9, -0.5, 0.2], [-0.3, 0.6, 0.7]], dtype=torch.float64)
TIGHT = {"rtol": 1e-10, "atol": 1e-10}
FIXED = {"solver": "rk4", "steps": 12}
torch.manual_seed(0)  # of the layers below


class Linear(nn.Module):
    """dz/dt = A z, so that z(1) = exp(A) x and the log-determinant is tr A."""

    def __init__(self, matrix: Tensor = MATRIX):
        super().__init__()
        self.matrix = nn.Parameter(matrix.clone())

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        return z @ self.matrix.T


def network(shape: tuple[int, ...] = (3,), **options: object) -> VelocityNetwork:
    torch.manual_seed(0)
    velocity = VelocityNetwork(shape, **{"hidden": 8, "layers": 2, **options}).double()
    with torch.no_grad():
        for parameter in velocity.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return velocity


def points(n: int = 4, *shape: int) -> Tensor:
    return torch.randn(n, *(shape or (3,)), generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("solver", ["dopri5", "dopri8", "bosh3", "rk4"])
def test_a_linear_velocity_gives_the_matrix_exponential_and_the_trace(solver: str) -> None:
    layer, x = CNF(Linear(), divergence="exact", solver=solver, rtol=1e-8, atol=1e-8, steps=100), points()
    z, log_det = layer(x)
    assert_close(z, x @ torch.linalg.matrix_exp(MATRIX).T, rtol=0, atol=1e-6)
    assert_close(log_det, MATRIX.trace().expand(4), rtol=0, atol=1e-9)
    back, inverse_log_det = layer.inverse(z)
    assert_close(back, x, rtol=0, atol=1e-6)
    assert_close(inverse_log_det, -log_det)


@pytest.mark.parametrize(
    ("layer", "shape", "context"),
    [
        (CNF(VelocityNetwork((3,), hidden=6), divergence="exact", adjoint=False, **FIXED), (3,), None),
        (CNF(VelocityNetwork((3,), hidden=6, kind="concat", context=2), divergence="exact", **FIXED), (3,), (3, 2)),
        (
            CNF(VelocityNetwork((2, 2, 2), hidden=3, layers=1, activation="softplus"), divergence="exact", **FIXED),
            (2, 2, 2),
            None,
        ),
        (
            CNF(VelocityNetwork((2, 2, 2), hidden=3, layers=1, kind="concat", context=2), divergence="exact", **FIXED),
            (2, 2, 2),
            (3, 2),
        ),
        (CNF(VelocityNetwork((3,), hidden=6), **FIXED), (3,), None),
    ],
    ids=["through the solver", "adjoint with context", "picture", "picture with context", "estimated"],
)
def test_every_variant_keeps_its_word(layer: CNF, shape: tuple[int, ...], context: tuple[int, ...] | None) -> None:
    exact, second_order = layer.divergence == "exact", not layer.adjoint
    given = None if context is None else torch.randn(context, generator=torch.Generator().manual_seed(5))
    check_flow(
        layer,
        shape,
        context=given,
        exact=exact,
        second_order=second_order,
        round_trip=(1e-8, 1e-5),
        compiles=False,  # tracing so many steps takes long; fewer are traced below
    )


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 1e-7])
def test_there_and_back_is_the_same_to_the_solvers_tolerance(tolerance: float) -> None:
    layer, x = CNF(network(), divergence="exact", rtol=tolerance, atol=tolerance), points(64)
    with torch.no_grad():
        z, log_det = layer(x)
        back, inverse_log_det = layer.inverse(z)
        exact_z, exact_log_det = CNF(layer.velocity, divergence="exact", **TIGHT)(x)
    for found, wanted in ((z, exact_z), (log_det, exact_log_det), (back, x), (inverse_log_det, -log_det)):
        assert (found - wanted).abs().max() < 30 * tolerance


@pytest.mark.parametrize("noise", ["rademacher", "gaussian"])
def test_the_estimate_of_the_trace_is_unbiased(noise: str) -> None:
    layer, n = CNF(network(), noise=noise, **FIXED), 20_000
    torch.manual_seed(3)
    x = points(1).expand(n, 3)
    with torch.no_grad():
        estimates = layer(x)[1]
        (truth,) = CNF(layer.velocity, divergence="exact", **FIXED)(x[:1])[1]
    error = estimates.std() / n**0.5
    assert error > 0 and (estimates.mean() - truth).abs() < 4 * error


def test_rademacher_noise_is_exact_where_dimensions_do_not_mix() -> None:
    velocity = Linear(torch.diag(torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)))
    assert_close(CNF(velocity, **TIGHT)(points())[1], torch.full((4,), 1.5, dtype=torch.float64))


def test_noise_follows_from_the_generator_or_a_key_and_the_index_of_the_sample() -> None:
    layer, x = CNF(network(), **FIXED), points(6)

    def log_det(part: slice, key: int | None, offset: int = 0) -> Tensor:
        with torch.no_grad(), noise_of(layer, None if key is None else random.key(key), offset):
            return layer(x[part])[1]

    everything = slice(0, 6)
    torch.manual_seed(8)
    first, second = log_det(everything, None), log_det(everything, None)
    torch.manual_seed(8)
    assert torch.equal(log_det(everything, None), first) and not torch.equal(first, second)
    torch.manual_seed(9)
    before = torch.get_rng_state()
    keyed = log_det(everything, 4)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(10)
    assert_close(log_det(slice(2, 6), 4, offset=2), keyed[2:])
    assert not torch.equal(log_det(everything, 5), keyed)


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_the_adjoint_gives_the_gradient_of_the_solver(divergence: str) -> None:
    x = points().requires_grad_()
    hidden = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2), requires_grad=True)
    found = []
    for adjoint in (True, False):
        layer = CNF(network(context=2), divergence=divergence, adjoint=adjoint, **TIGHT)
        torch.manual_seed(0)
        z, log_det = layer(x, hidden.tanh())  # a context that is computed, and gets its own gradient
        loss = z.square().sum() - (log_det * torch.arange(1, 5)).sum()
        found.append(torch.autograd.grad(loss, [x, hidden, *layer.parameters()]))
        assert (layer.backward_evaluations > 0) == adjoint and layer.evaluations > 10
    for adjoint_grad, grad in zip(*found, strict=True):
        assert_close(adjoint_grad, grad, rtol=1e-5, atol=1e-7)
        assert grad.abs().max() > 1e-3


def test_only_the_solvers_steps_have_second_derivatives() -> None:
    x = points(2).requires_grad_()
    for adjoint in (True, False):
        layer = CNF(network(), divergence="exact", adjoint=adjoint, solver="rk4", steps=4)
        z, log_det = layer(x)
        total = z.square().sum() - log_det.sum()
        if adjoint:
            with pytest.raises(RuntimeError, match="CNF: the adjoint has first derivatives only"):
                torch.autograd.grad(total, x, create_graph=True)
        else:
            assert torch.autograd.grad(total, x, create_graph=True)[0].requires_grad
            assert torch.autograd.gradgradcheck(lambda x, layer=layer: layer(x), x, fast_mode=True)


@pytest.mark.parametrize("adjoint", [True, False])
def test_no_policy_solves_or_draws_again(adjoint: bool) -> None:
    found = []
    for policy in ("store", "checkpoint", "invert"):
        flow = FlowSequential(*(CNF(network(), adjoint=adjoint, **FIXED) for _ in range(2)), policy=policy)
        torch.manual_seed(0)
        z, log_det = flow(points())
        (z.square().sum() - log_det.sum()).backward()
        found.append([p.grad for p in flow.parameters()])
        assert all(layer.evaluations == 4 * FIXED["steps"] for layer in flow)
        assert all((layer.backward_evaluations > 0) == adjoint for layer in flow)
    assert_close(found[1], found[0])
    assert_close(found[2], found[0])


@pytest.mark.parametrize(
    ("solver", "steps", "divergence"), [("euler", 2, "exact"), ("midpoint", 1, "exact"), ("rk4", 1, "hutchinson")]
)
def test_fixed_steps_are_the_same_in_a_graph_that_is_traced(solver: str, steps: int, divergence: str) -> None:
    layer = CNF(network(layers=1), divergence=divergence, solver=solver, steps=steps, adjoint=False)
    x = points().requires_grad_()
    torch._dynamo.reset()
    found = []
    for run in (layer, torch.compile(layer, fullgraph=True, backend="aot_eager")):
        torch.manual_seed(0)
        z, log_det = run(x)
        found.append([z, log_det, *torch.autograd.grad(z.square().sum() - log_det.sum(), [x, *layer.parameters()])])
    assert_close(found[0], found[1], rtol=1e-10, atol=1e-12)
    torch.manual_seed(0)
    exported = torch.export.export(layer, (x.detach(),)).module()
    torch.manual_seed(0)
    assert_close(exported(x.detach()), tuple(value.detach() for value in found[0][:2]))


def test_steps_that_the_data_choose_are_not_exported() -> None:
    with pytest.raises(RuntimeError, match="CNF: dopri5 chooses its steps by the data; export with solver='rk4'"):
        torch.export.export(CNF(network()), (points(),))


def test_a_hard_sample_keeps_its_tolerance_among_easy_ones() -> None:
    class Spin(nn.Module):
        """Faster the farther from the origin."""

        def forward(self, t: Tensor, z: Tensor) -> Tensor:
            rate = z.square().sum(1, keepdim=True)
            return rate * torch.stack([-z[:, 1], z[:, 0]], 1)

    x = torch.cat([torch.tensor([[3.0, 0.0]]), 0.01 * torch.randn(2000, 2)]).double()
    layer = CNF(Spin(), divergence="exact", rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        z, log_det = layer(x)
    angle = torch.tensor(9.0, dtype=torch.float64)
    assert_close(z[0], 3 * torch.stack([angle.cos(), angle.sin()]), rtol=0, atol=2e-3)
    assert log_det.abs().max() < 1e-3  # a rotation of circles


def test_training_may_take_a_few_fixed_steps_and_evaluation_does_not() -> None:
    layer, x = CNF(network(), training_steps=3, **TIGHT), points()
    layer.train()(x)
    assert layer.evaluations == 12
    layer.eval()(x)
    assert layer.evaluations > 50


def test_positions_alone_are_the_same_and_claim_no_volume() -> None:
    layer, x = CNF(network(), divergence="exact", **FIXED), points()
    with positions_only(FlowSequential(layer)):
        z, log_det = layer(x)
    assert_close(z, layer(x)[0])
    assert log_det.isnan().all() and layer(x)[1].isfinite().all()


def test_a_new_network_is_the_identity() -> None:
    layer, x = CNF(VelocityNetwork((1, 4, 4), hidden=4)), torch.randn(3, 1, 4, 4)
    z, log_det = layer(x)
    assert_close(z, x)
    assert torch.equal(log_det, torch.zeros(3))


def test_what_cannot_be_solved_is_said() -> None:
    class Explodes(nn.Module):
        def forward(self, t: Tensor, z: Tensor) -> Tensor:
            return z.pow(3) * 1e4

    with pytest.raises(RuntimeError, match="CNF: dopri5 cannot keep rtol=1e-05, atol=1e-05 in torch.float32"):
        CNF(Explodes(), divergence="exact")(torch.ones(2, 2))


def test_the_integrator_is_asked_for_by_name_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    with pytest.raises(ImportError, match=r"continuous flows need torchdiffeq: pip install 'genkern\[ode\]'"):
        CNF(Linear())(points())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"divergence": "trace"}, "CNF: divergence must be one of .*; got 'trace'"),
        ({"noise": "uniform"}, "CNF: noise must be one of .*; got 'uniform'"),
        ({"solver": "ode45"}, "CNF: solver must be one of .*; got 'ode45'"),
        ({"rtol": 0.0}, "CNF: rtol must be positive; got 0.0"),
        ({"training_steps": 0}, "CNF: training_steps must be positive; got 0"),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CNF(Linear(), **options)


def test_networks_name_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="kind must be one of .*; got 'gated'"):
        VelocityNetwork((3,), kind="gated")
    with pytest.raises(ValueError, match="activation must be one of .*; got 'relu'"):
        VelocityNetwork((3,), activation="relu")
    with pytest.raises(ValueError, match=r"shape must be .*; got \(3, 4\)"):
        VelocityNetwork((3, 4))
    with pytest.raises(ValueError, match=r"context must be \[4, 2\]; got None"):
        VelocityNetwork((3,), context=2)(torch.zeros(()), torch.randn(4, 3))
    with pytest.raises(ValueError, match=r"context must be None; got \[4, 2\]"):
        VelocityNetwork((3,))(torch.zeros(()), torch.randn(4, 3), torch.randn(4, 2))


def test_the_adjoint_keeps_the_ends_of_the_path_however_long_it_is() -> None:
    x = points(16)
    short, long = (bytes_saved(CNF(network(), solver="rk4", steps=n), x) for n in (2, 32))
    assert short == long < 4 * 16 * (x.numel() + len(x))
    assert bytes_saved(CNF(network(), solver="rk4", steps=32, adjoint=False), x) > 20 * long
