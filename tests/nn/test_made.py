"""MADE and the flows on it: causality, one computation of each unit, and one inverse however it is computed."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from genkern.nn import (
    MADE,
    AffineTransform,
    FlowSequential,
    GatedTransform,
    Householder,
    Inverse,
    InverseAutoregressive,
    InvertibleConv1x1,
    MaskedAutoregressive,
    Permutation,
    SplineTransform,
)
from genkern.nn.flows.autoregressive import by_passes, solve_by_steps

NETWORKS = {
    "one layer": {"hidden": 7},
    "three layers, random degrees and order": {"hidden": (9, 14, 8), "degrees": "random", "order": "random", "seed": 3},
    "fewer units than inputs, reversed": {"hidden": (3, 4), "order": "reversed"},
    "residual": {"hidden": (11,) * 5, "residual": True, "activation": "elu"},
    "residual, random degrees": {"hidden": (8,) * 3, "residual": True, "degrees": "random", "seed": 5},
    "own order": {"hidden": (16, 16), "order": (2, 0, 5, 1, 4, 3), "activation": "tanh"},
}
TRANSFORMS = [
    AffineTransform("tanh", bound=2.0),
    AffineTransform("exp", standardize=True),
    AffineTransform("sigmoid"),
    GatedTransform(),
]


def made(name: str, features: int = 6, **options) -> MADE:
    """In float64, with parameters of no special values, also where the mask leaves them out."""
    torch.manual_seed(1)
    arguments = NETWORKS[name] if features == 6 else {"hidden": (8, 8)}
    network = MADE(features, **({"outputs": 2} | arguments | options)).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return network


# -- causality ---------------------------------------------------------------------------------------------------------


def connected(network: MADE, context: Tensor | None = None) -> Tensor:
    """``[P, D, D]``, whether parameter p of element i depends on element j, from the Jacobian at a few points."""
    found = torch.zeros(network.outputs * network.features, network.features, dtype=torch.bool)
    for x in torch.randn(20, network.features, dtype=torch.float64):
        given = (x[None],) if context is None else (x[None], context)
        found |= torch.autograd.functional.jacobian(lambda x, *c: network(x, *c)[0], given)[0][:, 0] != 0
    return found.view(network.outputs, network.features, network.features)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_output_depends_on_the_inputs_before_it_alone(name: str) -> None:
    network = made(name)
    position = torch.tensor(network.order).argsort()
    before = position[:, None] > position
    assert not (connected(network) & ~before).any()


@pytest.mark.parametrize("name", ["residual", "own order"])
def test_an_output_depends_on_all_the_inputs_before_it(name: str) -> None:
    network = made(name)
    position = torch.tensor(network.order).argsort()
    assert torch.equal(connected(network), (position[:, None] > position).expand(2, 6, 6))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_output_depends_on_the_context(name: str) -> None:
    network, context = made(name, context=3), torch.randn(1, 3, dtype=torch.float64)
    x = torch.randn(20, 6, dtype=torch.float64)
    outputs = network(x, context.expand(20, 3))
    moved = network(x, context.expand(20, 3) + torch.randn(20, 3, dtype=torch.float64))
    assert (outputs != moved).any(0).all()
    position = torch.tensor(network.order).argsort()
    assert not (connected(network, context) & ~(position[:, None] > position)).any()


def test_what_the_masks_leave_out_neither_leaks_nor_trains() -> None:
    network, x = made("residual"), torch.randn(4, 6, dtype=torch.float64)
    wanted = network(x)
    with torch.no_grad():
        for layer in network.layers:
            layer.weight[~layer.mask] = torch.nan
    assert torch.equal(network(x), wanted)
    network(x).square().sum().backward()
    for layer in network.layers:
        assert layer.weight.grad[~layer.mask].eq(0).all() and layer.weight.grad.isfinite().all()


def test_a_new_network_has_zeros_where_its_masks_leave_weights_out() -> None:
    assert all(layer.weight[~layer.mask].eq(0).all() for layer in MADE(5, (20, 20), degrees="random").layers)


@pytest.mark.parametrize("name", NETWORKS)
def test_units_are_sorted_by_degree_and_none_is_without_inputs(name: str) -> None:
    network = made(name)
    for layer in network.layers[:-1]:
        assert layer.mask.any(1).all()
        assert layer.mask.sum(1).diff().ge(0).all()


def test_a_seed_makes_the_same_network_and_another_seed_another() -> None:
    def masks(seed: int) -> list[Tensor]:
        return [layer.mask for layer in MADE(9, (20, 20), degrees="random", order="random", seed=seed).layers]

    assert all(map(torch.equal, masks(1), masks(1))) and not all(map(torch.equal, masks(1), masks(2)))


def test_wrong_networks_are_refused_by_name() -> None:
    for arguments, text in [
        ({"hidden": ()}, "sizes must be positive"),
        ({"hidden": (4, 4), "residual": True}, "odd number of equal hidden layers; got hidden=.4, 4."),
        ({"hidden": 4, "activation": "sin"}, "activation must be one of .* got 'sin'"),
        ({"hidden": 4, "degrees": "odd"}, "degrees must be 'sequential' or 'random'; got 'odd'"),
        ({"hidden": 4, "order": (0, 0, 1)}, "order must be one of"),
    ]:
        with pytest.raises(ValueError, match=f"MADE: .*{text}"):
            MADE(3, **arguments)
    with pytest.raises(ValueError, match="MADE: this network takes a context; got none"):
        MADE(3, 4, context=2)(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="MADE: this network takes no context; got one"):
        MADE(3, 4)(torch.zeros(1, 3), torch.zeros(1, 2))


# -- flows -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transform", TRANSFORMS, ids=repr)
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("context", [0, 3])
def test_all_ways_to_invert_agree(name: str, transform, context: int) -> None:
    flow = MaskedAutoregressive(made(name, context=context), transform)
    x = torch.randn(33, 6, dtype=torch.float64)
    given = torch.randn(33, context, dtype=torch.float64) if context else None
    with torch.no_grad():
        z, log_det = flow(x, given)
        ways = [
            flow.inverse(z, given),
            by_passes(flow, z, given),
            solve_by_steps(flow.network, flow.transform, z, given),
        ]
    for back, inverse_log_det in ways:
        assert_close(back, x, rtol=1e-9, atol=1e-9)
        assert_close(inverse_log_det, -log_det, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("features", [1, 2, 40])
def test_vectors_of_any_size_are_inverted(features: int) -> None:
    flow = MaskedAutoregressive(made("", features).float())
    x = torch.randn(5, features)
    z, log_det = flow(x)
    back, inverse_log_det = flow.inverse(z)
    assert_close(back, x, rtol=1e-4, atol=1e-4)
    assert_close(inverse_log_det, -log_det, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("transform", TRANSFORMS, ids=repr)
def test_gradients_through_the_inverse_are_those_of_the_passes(transform) -> None:
    flow = MaskedAutoregressive(made("residual", context=2), transform)
    z, context = torch.randn(4, 6, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)
    leaves = [z.requires_grad_(), context.requires_grad_(), *flow.parameters()]

    def gradients(x: Tensor, log_det: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(x.sin().sum() + log_det.square().sum(), leaves)

    found, wanted = gradients(*flow.inverse(z, context)), gradients(*by_passes(flow, z, context))
    for a, b in zip(found, wanted, strict=True):
        assert_close(a, b, rtol=1e-8, atol=1e-8)


def test_any_other_transform_is_inverted_step_by_step_with_each_unit_computed_once(monkeypatch) -> None:
    class Sinh:
        """y = (1 + s^2) sinh x + t, which the op does not know."""

        parameters = 2

        def __call__(self, x: Tensor, params: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
            s, t = params.chunk(2, dim=1)
            scale = 1 + s * s
            y = ((x - t) / scale).asinh() if inverse else scale * x.sinh() + t
            log_det = (scale.log() + (y if inverse else x).cosh().log()).sum(1)
            return y, -log_det if inverse else log_det

    from genkern.nn.autoregressive import made as networks

    flow, counted = MaskedAutoregressive(made("own order"), Sinh()), []

    def tanh(h: Tensor) -> Tensor:
        counted.append(h.numel())
        return torch.tanh(h)

    x = torch.randn(3, 6, dtype=torch.float64)
    z, log_det = flow(x)
    monkeypatch.setattr(networks, "ACTIVATIONS", {"tanh": tanh})
    back, inverse_log_det = flow.inverse(z)
    assert sum(counted) == 3 * (16 + 16)
    assert_close(back, x, rtol=1e-10, atol=1e-10)
    assert_close(inverse_log_det, -log_det)


def test_splines_are_inverted_step_by_step_and_have_gradients_there() -> None:
    splines = SplineTransform(bins=4)
    flow = MaskedAutoregressive(made("own order", outputs=splines.parameters), splines)
    x = torch.randn(9, 6, dtype=torch.float64)
    z, log_det = (out.detach() for out in flow(x))
    back, inverse_log_det = flow.inverse(z)
    assert_close(back, x, rtol=1e-8, atol=1e-8)
    assert_close(inverse_log_det, -log_det, rtol=1e-8, atol=1e-8)
    found = torch.autograd.grad(back.square().sum() - inverse_log_det.sum(), list(flow.parameters()))
    again, again_log_det = by_passes(flow, z)
    wanted = torch.autograd.grad(again.square().sum() - again_log_det.sum(), list(flow.parameters()))
    assert all(torch.allclose(a, b, rtol=1e-7, atol=1e-7) for a, b in zip(found, wanted, strict=True))


def test_a_network_of_ones_own_is_inverted_by_passes() -> None:
    class Running(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            before = x.cumsum(1) - x
            return torch.cat([before.sin(), before.cos()], dim=1)

    flow, x = MaskedAutoregressive(Running()), torch.randn(4, 7, dtype=torch.float64)
    assert_close(flow.inverse(flow(x)[0])[0], x)


def test_the_two_directions_find_the_same_parameters_under_autocast() -> None:
    flow = MaskedAutoregressive(made("own order").float())
    x = torch.randn(16, 6)
    with torch.autocast("cpu", torch.bfloat16):
        z, log_det = flow(x)
        back, inverse_log_det = flow.inverse(z)
    assert z.dtype == log_det.dtype == torch.float32
    assert_close(back, x, rtol=1e-5, atol=1e-5)
    assert_close(inverse_log_det, -log_det, rtol=1e-5, atol=1e-5)


def test_an_inverse_autoregressive_flow_is_a_masked_one_the_other_way_round() -> None:
    network = made("residual")
    flow = InverseAutoregressive(network)
    other = Inverse(MaskedAutoregressive(network, GatedTransform()))
    z = torch.randn(5, 6, dtype=torch.float64)
    x, log_det = flow.inverse(z)
    assert_close((x, log_det), other.inverse(z), rtol=0, atol=0)
    gate, candidate = network(z).chunk(2, dim=1)
    gate = torch.sigmoid(gate + 2)
    assert_close(x, gate * z + (1 - gate) * candidate)
    assert_close(log_det, gate.log().sum(1))
    assert_close(flow(x)[0], z, rtol=1e-10, atol=1e-10)


def test_the_pieces_compose_with_permutations_and_rotations() -> None:
    flow = FlowSequential(
        MaskedAutoregressive(MADE(6, (16, 16), outputs=2)), Permutation(6), Householder(6, 3),
        InverseAutoregressive(MADE(6, 16, outputs=2)), InvertibleConv1x1(6, "plu"), policy="invert",
    ).double()  # fmt: skip
    x = torch.randn(7, 6, dtype=torch.float64)
    z, log_det = flow(x)
    back, inverse_log_det = flow.inverse(z)
    assert_close(back, x, rtol=1e-9, atol=1e-9)
    assert_close(inverse_log_det, -log_det, rtol=1e-9, atol=1e-9)


# -- permutations and rotations ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("transform", [AffineTransform(), GatedTransform(), SplineTransform()])
def test_every_element_has_parameters_of_its_own(transform) -> None:
    """The operations would take fewer for those of the last elements, and leave the others as they are."""
    count = transform.parameters
    with pytest.raises(ValueError, match=f"params must have {4 * count} channels, {count} for each of 4 elements"):
        MaskedAutoregressive(MADE(4, 32, outputs=count // 2 or 1), transform)(torch.randn(2, 4))


def test_a_permutation_is_what_its_order_says() -> None:
    x = torch.arange(4.0)[None, :, None, None].expand(2, 4, 2, 3)
    assert torch.equal(Permutation(4)(x)[0], x.flip(1))
    assert torch.equal(Permutation(4, (2, 0, 3, 1))(x)[0][0, :, 0, 0], torch.tensor([2.0, 0.0, 3.0, 1.0]))
    assert torch.equal(Permutation(9, "random", seed=1).order, Permutation(9, "random", seed=1).order)
    with pytest.raises(ValueError, match="Permutation: order must be 'reverse', 'random' or a permutation of 3"):
        Permutation(3, (0, 1, 1))


@pytest.mark.parametrize("reflections", [1, 4, 9])
def test_a_householder_matrix_is_the_product_of_its_reflections(reflections: int) -> None:
    layer = Householder(5, reflections).double()
    product = torch.eye(5, dtype=torch.float64)
    for v in layer.vectors.T:
        product = product @ (torch.eye(5, dtype=torch.float64) - 2 * torch.outer(v, v) / (v @ v))
    assert_close(layer.matrix(), product, rtol=1e-12, atol=1e-12)


def test_a_long_product_of_reflections_stays_orthogonal_in_float32() -> None:
    torch.manual_seed(0)
    q = Householder(64, 256).matrix().double()
    assert (q @ q.T - torch.eye(64)).abs().max() < 5e-6


def test_a_reflection_along_nothing_is_the_identity() -> None:
    layer = Householder(3, 2)
    with torch.no_grad():
        layer.vectors.zero_()
    z, _ = layer(torch.randn(2, 3))
    z.sum().backward()
    assert torch.equal(layer.matrix(), torch.eye(3)) and layer.vectors.grad.isfinite().all()
