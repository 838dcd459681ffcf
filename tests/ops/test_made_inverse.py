import pytest
import torch
from torch import Tensor

from genkern.nn import MADE
from genkern.ops import made_inverse
from genkern.ops.made_inverse import reference
from genkern.testing import Case, OpSuite, assert_within_rule, jacobian_log_det


def with_offset(z: Tensor, weight: Tensor, bias: Tensor, offset: Tensor, **options):
    return made_inverse(z, weight, bias, offset=offset, **options)


def case(name: str, network: MADE, batch: int = 5, offset: bool = False, **options) -> Case:
    weight, bias = network.flat_parameters()
    shapes = {"z": (batch, network.features), "weight": weight.shape, "bias": bias.shape}
    if offset:
        shapes["offset"] = (batch, network.hidden[0])
    function = with_offset if offset else made_inverse
    return Case(name, function, shapes, network.structure | options, scale=0.5, batched=False)


class TestMadeInverse(OpSuite):
    cases = [
        case("tanh", MADE(4, (7, 6), outputs=2), bound=2.0),
        case("residual-standardize", MADE(3, (5, 5, 5), outputs=2, residual=True, activation="elu"), scale="exp",
             standardize=True),
        case("offset-gated", MADE(4, 9, outputs=2, context=2, order="random", activation="tanh"), batch=34, offset=True,
             scale="gated"),
        case("random-sigmoid", MADE(5, (6, 11), outputs=2, degrees="random", order="reversed"), scale="sigmoid"),
    ]  # fmt: skip


def inputs(network: MADE, batch: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    sizes = [(batch, network.features), *(tensor.shape for tensor in network.flat_parameters())]
    return tuple((0.3 * torch.randn(size, generator=generator, dtype=torch.float64)).to(dtype) for size in sizes)


def naive(network: MADE, z: Tensor, weight: Tensor, bias: Tensor, **options) -> tuple[Tensor, Tensor]:
    """D passes of the whole masked network, through its own masks."""
    layers = reference.layers_of(weight, bias, network.hidden, network.features)
    named = [(f"layers.{i}.{name}", t) for i, pair in enumerate(layers)
             for name, t in zip(("weight", "bias"), pair, strict=True)]  # fmt: skip
    x = torch.zeros_like(z)
    for _ in range(network.features):
        raw, shift = torch.func.functional_call(network, dict(named), (x,)).chunk(2, dim=1)
        log_scale = 2.0 * torch.tanh(raw / 2.0)
        x = (z - shift) * (-log_scale).exp()
    return x, -log_scale.sum(1)


@pytest.mark.parametrize("batch", [1, 31, 32, 65])
def test_one_call_agrees_with_passes_of_the_whole_network(batch: int) -> None:
    network = MADE(20, (50, 64), outputs=2, order="random")
    exact = inputs(network, batch)
    options = network.structure | {"bound": 2.0}
    truth = naive(network.double(), *exact)
    given = [tensor.float() for tensor in exact]
    plain = naive(network.float(), *given)
    for found, p, t in zip(made_inverse(*given, **options), plain, truth, strict=True):
        assert_within_rule(found, p, t)
    for found, t in zip(made_inverse(*exact, **options), truth, strict=True):
        torch.testing.assert_close(found, t, rtol=1e-11, atol=1e-11)


def test_the_definition_computes_each_hidden_unit_once() -> None:
    network, counted = MADE(9, (20, 31, 12), outputs=2), []

    def activation(h: Tensor) -> Tensor:
        counted.append(h.numel())
        return torch.relu(h)

    z, weight, bias = inputs(network, 3)
    layers = reference.layers_of(weight, bias, network.hidden, 9)
    structure = (network.starts, network.order, activation, False)
    reference.incremental(z, layers, z[:, :0], *structure, lambda z, p: reference.solve_affine(z, p, "exp", 1.0, False))
    assert sum(counted) == 3 * (20 + 31 + 12)


@pytest.mark.parametrize("impl", ["auto", "torch"])
def test_what_the_degrees_leave_out_is_never_read_and_gets_no_gradient(impl: str) -> None:
    network = MADE(6, (10, 10, 10), outputs=2, residual=True, order="random")
    z, weight, bias = inputs(network, 40, torch.float32)
    masked = torch.cat([~layer.mask.flatten() for layer in network.layers])
    poisoned = weight.masked_fill(masked, torch.nan)
    wanted = made_inverse(z, weight, bias, **network.structure, impl=impl)
    leaves = [z.requires_grad_(), poisoned.requires_grad_(), bias]
    found = made_inverse(*leaves, **network.structure, impl=impl)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    grad_z, grad_weight = torch.autograd.grad(found[0].sum() + found[1].sum(), leaves[:2])
    assert grad_z.isfinite().all() and grad_weight[masked].eq(0).all() and grad_weight[~masked].isfinite().all()


def test_log_det_is_that_of_the_jacobian() -> None:
    network = MADE(5, (16, 16), outputs=2, activation="tanh")
    z, weight, bias = inputs(network, 3)
    truth = jacobian_log_det(lambda z: made_inverse(z, weight, bias, **network.structure)[0], z)
    torch.testing.assert_close(made_inverse(z, weight, bias, **network.structure)[1], truth, rtol=0, atol=1e-9)


@pytest.mark.parametrize("scale", ["tanh", "gated"])
def test_extreme_parameters_stay_finite(scale: str) -> None:
    network = MADE(2, 3, outputs=2)
    weight, _ = (torch.zeros_like(tensor) for tensor in network.flat_parameters())
    for raw in (100.0, -100.0):
        bias = torch.tensor([0.0] * 3 + [raw] * 4, requires_grad=True)
        z = torch.full((3, 2), 1e-3, requires_grad=True)
        outputs = made_inverse(z, weight, bias, **network.structure, scale=scale, standardize=scale == "gated")
        grads = torch.autograd.grad(sum(out.sum() for out in outputs), (z, bias))
        assert all(tensor.isfinite().all() for tensor in (*outputs, *grads))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_of_none_and_of_one_work(dtype: torch.dtype) -> None:
    network = MADE(3, (4, 5), outputs=2)
    z, weight, bias = inputs(network, 2, dtype)
    whole = made_inverse(z, weight, bias, **network.structure)
    one = made_inverse(z[1:], weight, bias, **network.structure)
    assert all(torch.equal(a, b[1:]) for a, b in zip(one, whole, strict=True))
    leaves = [tensor.requires_grad_() for tensor in (z[:0].clone(), weight, bias)]
    x, log_det = made_inverse(*leaves, **network.structure)
    assert x.shape == (0, 3) and log_det.shape == (0,) and x.dtype == dtype and log_det.dtype == torch.float32
    grads = torch.autograd.grad(x.sum() + log_det.sum(), leaves)
    assert all(grad.eq(0).all() and grad.shape == leaf.shape for grad, leaf in zip(grads, leaves, strict=True))


def test_sums_over_many_blocks_of_samples_are_those_of_the_definition() -> None:
    network = MADE(3, (6, 5), outputs=2)
    exact = inputs(network, 32 * 33 + 3)

    def gradients(dtype: torch.dtype, impl: str) -> tuple[Tensor, ...]:
        leaves = [tensor.to(dtype).requires_grad_() for tensor in exact]
        x, log_det = made_inverse(*leaves, **network.structure, impl=impl)
        return torch.autograd.grad(x.sin().sum() + log_det.square().sum(), leaves)

    triples = zip(gradients(torch.float32, "auto"), gradients(torch.float32, "torch"),
                  gradients(torch.float64, "torch"), strict=True)  # fmt: skip
    for found, plain, truth in triples:
        assert_within_rule(found, plain, truth)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"weight": torch.zeros(3)}, r"weight must be \[24\] for D = 2 and hidden = \(4,\); got \[3\]"),
        ({"bias": torch.zeros(3)}, r"bias must be \[8\] for D = 2"),
        ({"z": torch.zeros(2)}, r"z must be \[B, D\]; got \[2\]"),
        ({"order": (0, 0)}, r"order must be a permutation of 2; got \(0, 0\)"),
        ({"starts": (0, 4)}, "starts must be sorted"),
        ({"starts": (0, 5, 4)}, "starts must be sorted"),
        ({"offset": torch.zeros(2, 3)}, r"offset must be \[B, 4\]; got \[2, 3\] \(z is \[2, 2\]\)"),
        ({"scale": "none"}, "scale must be one of"),
        ({"activation": "gelu"}, "activation must be one of .*got 'gelu'"),
        ({"bound": -1.0}, "bound must be positive"),
        ({"residual": True, "hidden": (2, 2)}, r"hidden must be an odd number of equal sizes; got \(2, 2\)"),
        ({"impl": "fast"}, "impl must be"),
    ],
)
def test_errors_name_the_argument(change: dict, text: str) -> None:
    network = MADE(2, 4, outputs=2)
    arguments = dict(zip(("z", "weight", "bias"), inputs(network, 2, torch.float32), strict=True)) | network.structure
    with pytest.raises(ValueError, match=f"made_inverse: {text}"):
        made_inverse(**(arguments | change))
