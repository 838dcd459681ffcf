"""Every layer of the catalogue is in the package, keeps its word, and stands in the table of the documentation.

What makes a flow layer exact, and where it is tested (``check_flow`` runs here, on every layer; ``OpSuite`` in
``tests/ops``, on every operation that the layers run on):

====================================================  ================================================================
(1) first and second derivatives of z and log_det     check_flow: derivatives_are_those_of_finite_differences
(2) log_det is that of the Jacobian                   check_flow: log_det_is_that_of_the_jacobian
(3) round trip, and log_dets that cancel              check_flow: inverse_undoes_forward
(4) the density of the plane integrates to one        test_the_density_of_the_plane_...; where it takes four pixels:
                                                      test_a_layer_that_rearranges_changes_no_element
(5) raw parameters of ±100, far inputs: finite        test_raw_parameters_of_a_hundred_and_far_inputs_..., both ways
(6) autocast, bfloat16: log_det float32, exact        check_flow: low_precision_leaves_the_log_det_alone; OpSuite
(7) any layout, odd channels, batch 0 and 1, float64  check_flow: any_batch_and_layout_is_the_same; test_odd_...
(8) compile without a break; opcheck, export          check_flow: traces_whole (of a CNF: test_flow_continuous.py);
                                                      test_the_inverse_traces_whole; test_a_layer_exports; OpSuite
(9) peers' layouts                                    tests/nn/test_importers.py, of the layers that peers have
(10) bytes saved for the backward pass                test_the_documentation_holds_the_table...: its last column
(11) time beside copy_                                never tested, measured: ``genkern bench --ops``
====================================================  ================================================================

`ResidualFlow` stands here with its exact log-determinant; ``tests/nn/test_residual.py`` holds its estimates against it.
"""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from genkern import nn
from genkern.nn.flows import catalogue
from genkern.nn.flows.catalogue import CATALOGUE, Entry
from genkern.testing import check_flow
from genkern.testing.flows import settle

CONTAINERS = {"Flow", "FlowSequential", "Inverse"}
BY_NAME = {entry.layer: entry for entry in CATALOGUE}


@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.layer)
def test_a_layer_is_what_the_catalogue_says(entry: Entry) -> None:
    options = {name: value for name, value in entry.checks.items() if name != "context"}
    options.setdefault("second_order", "second" in entry.derivatives)
    layer = entry.example()
    assert type(layer).__name__ == entry.layer
    check_flow(layer, entry.shape, context=entry.context(3), **options)


SIGNS = {"positive": [100.0], "negative": [-100.0], "mixed": [100.0, -100.0]}


def extreme(entry: Entry, sign: str, dtype: torch.dtype) -> nn.Flow:
    """All raw parameters are ±100; of a network the biases, so that what it gives is about that."""
    layer = entry.example()
    layer.initialize(far(entry.shape).float(), entry.context(3))
    generator, pattern = torch.Generator().manual_seed(4), torch.tensor(SIGNS[sign])
    with torch.no_grad():
        for module in layer.modules():
            network = isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
            for parameter in module.parameters(recurse=False):
                if parameter.dim() < 2:
                    parameter.copy_(pattern.repeat(parameter.numel())[: parameter.numel()].view_as(parameter))
                elif not network:
                    parameter.copy_(100 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return layer.to(dtype).eval()


def far(shape: tuple[int, ...]) -> Tensor:
    return 30 * torch.randn(3, *shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def values_and_gradients(layer: nn.Flow, y: Tensor, context: Tensor | None, inverse: bool) -> list[Tensor]:
    y = y.detach().requires_grad_()
    out, log_det = layer.inverse(y, context) if inverse else layer(y, context)
    grads = torch.autograd.grad(out.sum() + log_det.sum(), [y, *layer.parameters()], allow_unused=True)
    return [out, log_det, *(grad for grad in grads if grad is not None)]


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.layer)
def test_raw_parameters_of_a_hundred_and_far_inputs_have_finite_values_and_gradients(entry: Entry, sign: str) -> None:
    """In float32 too, unless the exact values pass what it can hold: e^100 does."""
    context = entry.context(3)
    exact, single = extreme(entry, sign, torch.float64), extreme(entry, sign, torch.float32)
    latents = far(tuple(exact(far(entry.shape), None if context is None else context.double())[0].shape[1:]))
    for inverse, y in ((False, far(entry.shape)), (True, latents)):
        found = values_and_gradients(exact, y, None if context is None else context.double(), inverse)
        assert all(value.isfinite().all() for value in found)
        if max(value.abs().max() for value in found) < torch.finfo(torch.float32).max:
            found = values_and_gradients(single, y.float(), context, inverse)
            assert all(value.isfinite().all() for value in found)


PIXELS, COLUMN = (1, 1, 2), (2, 1, 1)
# The layers in two dimensions, where a density can be integrated on a grid.
PLANE: dict[str, tuple[Callable[[], nn.Flow], tuple[int, ...]]] = {
    "AdditiveCoupling": (lambda: nn.AdditiveCoupling(torch.nn.Conv2d(1, 1, 1)), COLUMN),
    "AffineCoupling": (lambda: nn.AffineCoupling(torch.nn.Conv2d(1, 2, 1)), COLUMN),
    "ActNorm": (lambda: nn.ActNorm(2), COLUMN),
    "ChannelAffine": (lambda: nn.ChannelAffine(2), COLUMN),
    "FlowBatchNorm": (lambda: nn.FlowBatchNorm(2), COLUMN),
    "InvertibleConv1x1": (lambda: nn.InvertibleConv1x1(2, "free"), COLUMN),
    "AutoregressiveConv2d": (lambda: nn.AutoregressiveConv2d(1), PIXELS),
    "EmergingConv2d": (lambda: nn.EmergingConv2d(1), PIXELS),
    "PeriodicConv2d": (lambda: nn.PeriodicConv2d(2), COLUMN),
    "Flatten": (lambda: nn.Flatten(COLUMN), COLUMN),
    "Split": (lambda: nn.Split(torch.nn.Conv2d(1, 2, 1)), COLUMN),
    "CNF": (
        lambda: nn.CNF(nn.VelocityNetwork((2,), hidden=6, layers=1), divergence="exact", solver="rk4", steps=4),
        (2,),
    ),
    "SplineCoupling": (lambda: nn.SplineCoupling(torch.nn.Conv2d(1, 23, 1)), COLUMN),
    "ElementwiseSpline": (lambda: nn.ElementwiseSpline((2,)), (2,)),
    "MaskedAutoregressive": (lambda: nn.MaskedAutoregressive(nn.MADE(2, 8, outputs=2, activation="tanh")), (2,)),
    "InverseAutoregressive": (lambda: nn.InverseAutoregressive(nn.MADE(2, 8, outputs=2, activation="tanh")), (2,)),
    "Permutation": (lambda: nn.Permutation(2, "reverse"), COLUMN),
    "Householder": (lambda: nn.Householder(2), COLUMN),
    "Planar": (lambda: nn.Planar(2), (2,)),
    "Radial": (lambda: nn.Radial(2), (2,)),
    "Sylvester": (lambda: nn.Sylvester(2, 2), (2,)),
    "ResidualFlow": (
        lambda: nn.ResidualFlow(catalogue.residual_network(2), log_det=catalogue.ExactLogDet()),
        (2,),
    ),
}
# How far the grid reaches and its step, where (12, 0.1) is too near for a wide density or too coarse for its kinks.
GRIDS = {"InvertibleConv1x1": (48, 0.2), "ElementwiseSpline": (12, 0.05)}
REARRANGING = {"Squeeze", "Unsqueeze"}  # of four pixels at least


@pytest.mark.parametrize("name", PLANE)
def test_the_density_of_the_plane_integrates_to_one(name: str) -> None:
    build, shape = PLANE[name]
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        layer = build()
    start = torch.randn(64, *shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    layer = settle(layer, start, noise=0.3)
    reach, step = GRIDS.get(name, (12, 0.1))
    line = torch.arange(-reach, reach, step, dtype=torch.float64)
    with torch.no_grad():
        z, log_det = layer(torch.cartesian_prod(line, line).view(-1, *shape), None)
    log_prior = -0.5 * (z.square() + math.log(2 * math.pi)).flatten(1).sum(1)
    assert abs((log_prior + log_det).exp().sum().item() * step**2 - 1) < 1e-3


def test_every_layer_that_a_plane_can_show_is_integrated() -> None:
    assert set(PLANE) == set(BY_NAME) - REARRANGING


REARRANGED: dict[str, tuple[Callable[[], nn.Flow], tuple[int, ...]]] = {
    "Squeeze": (nn.Squeeze, (3, 4, 6)),
    "Unsqueeze": (nn.Unsqueeze, (12, 3, 5)),
    "Flatten": (lambda: nn.Flatten((3, 4, 6)), (3, 4, 6)),
    "Permutation": (lambda: nn.Permutation(5, "random"), (5, 3, 3)),
}


@pytest.mark.parametrize("name", REARRANGED)
def test_a_layer_that_rearranges_changes_no_element(name: str) -> None:
    build, shape = REARRANGED[name]
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(2))
    z, log_det = build()(x, None)
    assert torch.equal(z.flatten(1).sort(1).values, x.flatten(1).sort(1).values) and not z.equal(x)
    assert torch.equal(log_det, torch.zeros(3))


def to_trace(entry: Entry) -> nn.Flow:
    """The example, of a solver one step of one evaluation."""
    layer = entry.example()
    for module in layer.modules():
        if isinstance(module, nn.CNF):
            module.solver, module.steps = "euler", 1
    return layer


@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.layer)
def test_a_layer_exports(entry: Entry) -> None:
    x = torch.randn(3, *entry.shape, generator=torch.Generator().manual_seed(3))
    context = entry.context(3)
    layer = to_trace(entry)
    layer.initialize(x, context)
    program = torch.export.export(layer.eval(), (x, context))
    for found, wanted in zip(program.module()(x, context), layer(x, context), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.layer)
def test_a_layer_writes_into_neither_its_input_nor_what_its_networks_return(entry: Entry) -> None:
    layer, seen = entry.example(), []
    x, context = torch.randn(3, *entry.shape, generator=torch.Generator().manual_seed(3)), entry.context(3)
    layer.initialize(x, context)
    layer.eval()
    for module in layer.modules():
        if not isinstance(module, nn.Flow):
            module.register_forward_hook(lambda _, __, out: seen.append((out, out.clone())))
    before = x.clone()
    with torch.no_grad():
        z, _ = layer(x, context)
        after = z.clone()
        layer.inverse(z, context)
    for tensor, copy in ((x, before), (z, after), *seen):
        assert torch.equal(tensor, copy)


INVERSE_BREAKS = {"ResidualFlow": "the host asks whether its iteration has reached the tolerance"}


@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.layer)
def test_the_inverse_traces_whole(entry: Entry) -> None:
    if entry.layer in INVERSE_BREAKS:
        pytest.skip(INVERSE_BREAKS[entry.layer])
    x, context = torch.randn(3, *entry.shape, generator=torch.Generator().manual_seed(3)), entry.context(3)
    layer = to_trace(entry)
    layer.initialize(x, context)
    z = layer.eval()(x, context)[0].detach()
    torch._dynamo.reset()
    compiled = torch.compile(layer.inverse, fullgraph=True, backend="aot_eager")
    for found, wanted in zip(compiled(z, context), layer.inverse(z, context), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


ODD_PICTURE, ODD_VECTOR = (5, 3, 5), (5,)
ODD: dict[str, tuple[Callable[[], nn.Flow], tuple[int, ...]]] = {
    "AdditiveCoupling": (lambda: nn.AdditiveCoupling(torch.nn.Conv2d(3, 2, 1)), ODD_PICTURE),
    "AffineCoupling": (lambda: nn.AffineCoupling(torch.nn.Conv2d(3, 4, 1)), ODD_PICTURE),
    "ActNorm": (lambda: nn.ActNorm(5), ODD_PICTURE),
    "ChannelAffine": (lambda: nn.ChannelAffine(5), ODD_PICTURE),
    "FlowBatchNorm": (lambda: nn.FlowBatchNorm(5), ODD_PICTURE),
    "InvertibleConv1x1": (lambda: nn.InvertibleConv1x1(5), ODD_PICTURE),
    "AutoregressiveConv2d": (lambda: nn.AutoregressiveConv2d(5), ODD_PICTURE),
    "EmergingConv2d": (lambda: nn.EmergingConv2d(5), ODD_PICTURE),
    "PeriodicConv2d": (lambda: nn.PeriodicConv2d(5), ODD_PICTURE),
    "Squeeze": (nn.Squeeze, (5, 2, 6)),  # an odd side cannot be squeezed
    "Unsqueeze": (nn.Unsqueeze, (20, 3, 5)),
    "Flatten": (lambda: nn.Flatten(ODD_PICTURE), ODD_PICTURE),
    "Split": (lambda: nn.Split(torch.nn.Conv2d(3, 4, 1)), ODD_PICTURE),
    "CNF": (
        lambda: nn.CNF(nn.VelocityNetwork(ODD_PICTURE, hidden=3, layers=1), solver="rk4", steps=8, divergence="exact"),
        ODD_PICTURE,
    ),
    "SplineCoupling": (lambda: nn.SplineCoupling(torch.nn.Conv2d(3, 2 * 23, 1)), ODD_PICTURE),
    "ElementwiseSpline": (lambda: nn.ElementwiseSpline(ODD_PICTURE), ODD_PICTURE),
    "MaskedAutoregressive": (lambda: nn.MaskedAutoregressive(nn.MADE(5, 7, outputs=2)), ODD_VECTOR),
    "InverseAutoregressive": (
        lambda: nn.InverseAutoregressive(nn.MADE(5, 7, outputs=2, activation="tanh")),
        ODD_VECTOR,
    ),
    "Permutation": (lambda: nn.Permutation(5, "random"), ODD_PICTURE),
    "Householder": (lambda: nn.Householder(5), ODD_PICTURE),
    "Planar": (lambda: nn.Planar(75), ODD_PICTURE),
    "Radial": (lambda: nn.Radial(75), ODD_PICTURE),
    "Sylvester": (lambda: nn.Sylvester(5, 3), ODD_VECTOR),
    "ResidualFlow": (
        lambda: nn.ResidualFlow(
            torch.nn.Sequential(nn.SpectralConv2d(5, 3, 3, (3, 5)), nn.LipSwish(), nn.SpectralConv2d(3, 5, 3, (3, 5))),
            log_det=catalogue.ExactLogDet(),
        ),
        ODD_PICTURE,
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_channels_on_odd_pictures_come_back_in_any_layout(name: str) -> None:
    build, shape = ODD[name]
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        layer = build()
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    layer = settle(layer, x)
    other = x.mT.contiguous().mT if x.dim() == 2 else x.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        z, log_det = layer(x, None)
        last, last_log_det = layer(other, None)
        back, inverse_log_det = layer.inverse(z, None)
    for found, wanted in ((last, z), (last_log_det, log_det)):
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)
    tolerance = BY_NAME[name].checks.get("round_trip", (1e-11, None))[0]
    for found, wanted in ((back, x), (-inverse_log_det, log_det)):
        torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


def test_no_layer_is_left_out_of_the_odd_sizes() -> None:
    assert set(ODD) == set(BY_NAME)


def test_every_flow_layer_is_in_the_catalogue() -> None:
    public = [getattr(nn, name) for name in nn.__all__]
    flows = {c.__name__ for c in public if isinstance(c, type) and issubclass(c, nn.Flow)} - CONTAINERS
    assert flows == set(BY_NAME)


def test_the_documentation_holds_the_table_as_the_command_prints_it() -> None:
    page = (Path(__file__).parents[2] / "docs/layers.md").read_text(encoding="utf-8")
    assert catalogue.markdown() in page, "docs/layers.md is behind: paste what `genkern layers --markdown` prints"
