"""Containers: the memory policies agree, store what they say, and determinants come from one call."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from genkern import ops
from genkern.nn import (
    ActNorm,
    AffineCoupling,
    Flow,
    FlowBatchNorm,
    FlowSequential,
    InvertibleConv1x1,
    Split,
    Squeeze,
    Unsqueeze,
)
from genkern.nn.memory import bytes_saved

POLICIES = ["checkpoint", "invert"]


class Network(nn.Module):
    """Reads a context too; with batch normalisation and dropout when asked."""

    def __init__(self, inputs: int, outputs: int, noisy: bool = False):
        super().__init__()
        norm, drop = (nn.BatchNorm2d(8), nn.Dropout(0.3)) if noisy else (nn.Identity(), nn.Identity())
        self.layers = nn.Sequential(nn.Conv2d(inputs, 8, 3, padding=1), norm, nn.Tanh(), drop, nn.Conv2d(8, outputs, 1))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.layers(x if context is None else x + context)


def step(channels: int, noisy: bool = False) -> Flow:
    conv = InvertibleConv1x1(channels, "free", actnorm=True)
    return FlowSequential(conv, AffineCoupling(Network(channels // 2, channels, noisy)))


def flow(policy: str, *, depth: int = 7, every: int = 3, noisy: bool = False) -> FlowSequential:
    torch.manual_seed(0)
    coarse = FlowSequential(*(step(2, noisy) for _ in range(3)), policy=policy, every=2)
    norms: list[Flow] = [ActNorm(4), *([FlowBatchNorm(4)] if noisy else []), InvertibleConv1x1(4)]
    steps = [step(4, noisy) for _ in range(depth)]
    split = Split(Network(2, 4), coarse)
    return FlowSequential(Squeeze(), *norms, *steps, split, Unsqueeze(), policy=policy, every=every)


def picture(n: int = 4) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(n, 1, 4, 4)


def train_once(model: Flow, x: Tensor, context: Tensor | None = None) -> dict[str, Tensor]:
    """Loss, and gradients of the input, the context and every parameter."""
    torch.manual_seed(2)
    x = x.clone().requires_grad_()
    z, log_det = model(x, context)
    loss = 0.5 * z.square().sum() - (log_det * torch.arange(1, len(x) + 1)).sum()
    loss.backward()
    named = {"loss": loss.detach(), "x": x.grad, **{name: p.grad for name, p in model.named_parameters()}}
    return named if context is None else {**named, "context": context.grad}


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("policy", POLICIES)
def test_policies_agree(policy: str, noisy: bool) -> None:
    stored, other = flow("store", noisy=noisy), flow(policy, noisy=noisy)
    stored.initialize(picture())
    other.load_state_dict(stored.state_dict())
    assert_close(train_once(other, picture()), train_once(stored, picture()), rtol=1e-4, atol=1e-4)
    assert_close(other.state_dict(), stored.state_dict(), rtol=0, atol=0)  # running statistics moved once


@pytest.mark.parametrize("policy", POLICIES)
def test_the_context_gets_the_same_gradient(policy: str) -> None:
    def build(policy: str) -> FlowSequential:
        torch.manual_seed(0)
        return FlowSequential(*(AffineCoupling(Network(1, 2), flip=i % 2 == 1) for i in range(5)), policy=policy)

    x = torch.randn(4, 2, 3, 3)
    contexts = [torch.ones(4, 1, 3, 3, requires_grad=True) for _ in range(2)]
    assert_close(train_once(build(policy), x, contexts[0]), train_once(build("store"), x, contexts[1]))


@pytest.mark.parametrize("policy", POLICIES)
def test_policies_agree_in_float64_to_its_precision(policy: str) -> None:
    x, gradients = picture().double(), []
    for name in ("store", policy):
        model = flow(name).double()
        model.initialize(x)
        gradients.append(train_once(model, x))
    assert_close(gradients[1], gradients[0], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("policy", POLICIES)
def test_policies_agree_under_autocast(policy: str) -> None:
    gradients = []
    for name in ("store", policy):
        model = flow(name)
        model.initialize(picture())
        with torch.autocast("cpu", torch.bfloat16):
            torch.manual_seed(2)
            z, log_det = model(picture())
            loss = z.square().sum() - log_det.sum()
        loss.backward()
        assert z.dtype == torch.float32
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert all(grad is not None for grad in gradients[1].values())
    assert_close(gradients[1], gradients[0], rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("policy", POLICIES)
def test_frozen_inputs_and_parameters_are_left_alone(policy: str) -> None:
    model, stored = flow(policy), flow("store")
    for m in (model, stored):
        m.initialize(picture())
        m[3].requires_grad_(False)
        z, log_det = m(picture())
        (z.square().sum() - log_det.sum()).backward()
    expected = {name: p.grad for name, p in stored.named_parameters() if p.grad is not None}
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("policy", ["store", *POLICIES])
def test_the_first_training_step_initialises(policy: str) -> None:
    model = flow(policy)
    train_once(model, picture())
    assert all(m.initialized for m in model.modules() if isinstance(m, ActNorm))


def test_random_generators_are_where_a_stored_pass_would_leave_them() -> None:
    states = []
    for policy in ("store", "invert"):
        model = flow(policy, noisy=True)
        model.initialize(picture())
        train_once(model, picture())
        states.append(torch.rand(()))
    assert states[0] == states[1]


def test_a_gradient_of_a_gradient_is_refused_by_invert_and_right_under_checkpoint() -> None:
    second = {}
    for policy in ("store", "checkpoint", "invert"):
        model = flow(policy, depth=3)
        model.initialize(picture())
        x = picture().requires_grad_()
        z, log_det = model(x)
        if policy == "invert":
            with pytest.raises(RuntimeError, match="policy='invert' has first derivatives only"):
                torch.autograd.grad(z.square().sum() - log_det.sum(), x, create_graph=True)
        else:
            (grad,) = torch.autograd.grad(z.square().sum() - log_det.sum(), x, create_graph=True)
            (second[policy],) = torch.autograd.grad(grad.square().sum(), x)
    assert_close(second["checkpoint"], second["store"], rtol=1e-4, atol=1e-4)


def test_half_precision_states_are_refused_by_invert() -> None:
    model = FlowSequential(ActNorm(2), ActNorm(2), policy="invert").bfloat16().eval()
    with pytest.raises(TypeError, match="states of float32 or float64; got torch.bfloat16 from ActNorm"):
        model(torch.randn(3, 2, dtype=torch.bfloat16))


def test_what_invert_stores_grows_by_one_state_for_every_so_many_layers() -> None:
    x = torch.randn(16, 4, 8, 8)

    def deep(depth: int, policy: str) -> int:
        model = FlowSequential(*(step(4) for _ in range(depth)), policy=policy, every=8)
        model.initialize(x)
        return bytes_saved(model, x)

    state = x.numel() * 4
    small = 64 * 33 * 16  # log-determinants and matrices
    assert deep(32, "invert") - deep(8, "invert") <= 3 * state + small
    assert deep(16, "checkpoint") <= 17 * state + small
    assert deep(8, "store") > 5 * deep(8, "invert")


def test_the_reconstruction_error_is_zero_where_every_state_is_kept_and_small_between() -> None:
    x = picture()
    errors = []
    for every in (1, 4, 16):
        model = flow("invert", depth=15, every=every)
        model.initialize(x)
        errors.append(model.reconstruction_error(x).item())
    assert errors[0] <= 2e-6 and 0 < errors[2] < 1e-4


def test_the_reconstruction_error_sees_a_layer_that_cannot_be_inverted_well() -> None:
    model = FlowSequential(*(ActNorm(2) for _ in range(4)), policy="invert").eval()
    for i, layer in enumerate(model):
        layer.log_scale.data[:] = torch.tensor([-8.0, 8.0]) * (-1) ** i
        layer.bias.data[:] = 3.0
    assert model.reconstruction_error(torch.randn(8, 2)) > 1e-4


@pytest.mark.parametrize("policy", ["store", *POLICIES])
def test_all_determinants_come_from_one_call(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = flow(policy)
    model.initialize(picture())
    calls: list[int] = []
    real = ops.log_abs_det
    monkeypatch.setattr(ops, "log_abs_det", lambda weights: calls.append(len(weights)) or real(weights))
    z, log_det = model(picture())
    (z.sum() + log_det.sum()).backward()
    assert calls == [10]


def test_a_layer_of_ones_own_needs_no_shares() -> None:
    class Negate(Flow):
        def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
            return -x, x.new_zeros(len(x))

        inverse = forward

    class Wrapped(Flow):
        """Holds a free convolution and does not say so."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = InvertibleConv1x1(4, "free")

        def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
            return self.conv(x)

        def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
            return self.conv.inverse(z)

    model = FlowSequential(Negate(), Wrapped(), InvertibleConv1x1(4, "free"), policy="invert")
    x = torch.randn(3, 4, 2, 2)
    z, log_det = model(x)
    assert_close(log_det, 4 * sum(torch.linalg.slogdet(m.weight)[1] for m in (model[1].conv, model[2])).expand(3))
    assert_close(model.inverse(z)[0], x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("policy", ["store", *POLICIES])
def test_a_container_compiles_without_a_graph_break(policy: str) -> None:
    torch._dynamo.reset()

    def build(policy: str) -> FlowSequential:
        torch.manual_seed(0)
        coarse = FlowSequential(InvertibleConv1x1(2, "free"), policy=policy)
        model = FlowSequential(Squeeze(), step(4), Split(Network(2, 4), coarse), policy=policy)
        model.initialize(picture())
        return model

    model, plain = build(policy), build("store")
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_close(train_once(compiled, picture())["x"], train_once(plain, picture())["x"], rtol=1e-4, atol=1e-5)
    expected, found = ({n: p.grad for n, p in m.named_parameters()} for m in (plain, model))
    assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_empty_batches_pass_through_every_policy() -> None:
    for policy in ("store", *POLICIES):
        model = FlowSequential(step(4), step(4), policy=policy)
        model.initialize(torch.randn(4, 4, 2, 2))
        z, log_det = model(torch.randn(0, 4, 2, 2, requires_grad=True))
        (z.sum() + log_det.sum()).backward()
        assert log_det.shape == (0,)
