"""Every layer of the catalogue is in the package, keeps its word, and stands in the table of the documentation.

What makes a flow layer exact, and where it is tested (``check_flow`` runs here, on every layer; ``OpSuite`` in
``tests/ops``, on every operation that the layers run on):

====================================================  ================================================================
first and second derivatives of z and log_det         check_flow: derivatives_are_those_of_finite_differences
log_det is that of the Jacobian, float64 and float32  check_flow: log_det_is_that_of_the_jacobian
round trip, and log_dets that cancel                  check_flow: inverse_undoes_forward
the density of the plane integrates to one            test_the_density_of_the_plane_integrates_to_one
raw parameters of ±100, far inputs: finite            test_raw_parameters_of_a_hundred_and_far_inputs_have_...
autocast, bfloat16: log_det float32, and its error    check_flow: low_precision_leaves_the_log_det_alone; OpSuite
any layout, odd channels, batch 0 and 1, float64      check_flow: any_batch_and_layout_is_the_same; test_odd_...
compile without a break; opcheck, export              check_flow: traces_whole; test_a_layer_exports; OpSuite
peers' layouts                                        tests/nn/test_importers.py
bytes saved for the backward pass                     test_the_documentation_holds_the_table...: its last column
time beside copy_                                     never tested, measured: ``genkern bench --ops``
====================================================  ================================================================
"""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

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


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.layer)
def test_raw_parameters_of_a_hundred_and_far_inputs_have_finite_values_and_gradients(entry: Entry, sign: float) -> None:
    layer, context = entry.example(), entry.context(3)
    x = 30 * torch.randn(3, *entry.shape, generator=torch.Generator().manual_seed(3))
    layer.initialize(x, context)
    layer.double().eval()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for module in layer.modules():
            network = isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
            for parameter in module.parameters(recurse=False):
                if parameter.dim() < 2:  # biases too: what a network gives is about 100
                    parameter.fill_(100 * sign)
                elif not network:
                    parameter.copy_(100 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    x = x.double().requires_grad_()
    z, log_det = layer(x, None if context is None else context.double())
    grads = torch.autograd.grad(z.sum() + log_det.sum(), [x, *layer.parameters()], allow_unused=True)
    for value in (z, log_det, *(grad for grad in grads if grad is not None)):
        assert value.isfinite().all()


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


NOT_EXPORTED = {
    "CNF": "its solver cannot be traced",
    "ResidualFlow": "its log-determinant runs autograd inside, which torch.export refuses; torch.compile takes it",
}


@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.layer)
def test_a_layer_exports(entry: Entry) -> None:
    if entry.layer in NOT_EXPORTED:
        pytest.skip(NOT_EXPORTED[entry.layer])
    x = torch.randn(3, *entry.shape, generator=torch.Generator().manual_seed(3))
    context = entry.context(3)
    layer = entry.example()
    layer.initialize(x, context)
    program = torch.export.export(layer.eval(), (x, context))
    for found, wanted in zip(program.module()(x, context), layer(x, context), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


ODD: dict[str, Callable[[], nn.Flow]] = {
    "AdditiveCoupling": lambda: nn.AdditiveCoupling(torch.nn.Conv2d(3, 2, 1)),
    "AffineCoupling": lambda: nn.AffineCoupling(torch.nn.Conv2d(3, 4, 1)),
    "ActNorm": lambda: nn.ActNorm(5),
    "ChannelAffine": lambda: nn.ChannelAffine(5),
    "FlowBatchNorm": lambda: nn.FlowBatchNorm(5),
    "InvertibleConv1x1": lambda: nn.InvertibleConv1x1(5),
    "AutoregressiveConv2d": lambda: nn.AutoregressiveConv2d(5),
    "EmergingConv2d": lambda: nn.EmergingConv2d(5),
    "PeriodicConv2d": lambda: nn.PeriodicConv2d(5),
    "SplineCoupling": lambda: nn.SplineCoupling(torch.nn.Conv2d(3, 2 * 23, 1)),
    "Permutation": lambda: nn.Permutation(5, "random"),
    "Householder": lambda: nn.Householder(5),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_channels_on_odd_pictures_come_back_in_any_layout(name: str) -> None:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        layer = ODD[name]()
    x = torch.randn(2, 5, 3, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    layer = settle(layer, x)
    with torch.no_grad():
        z, log_det = layer(x, None)
        last, last_log_det = layer(x.contiguous(memory_format=torch.channels_last), None)
        back, inverse_log_det = layer.inverse(z, None)
    for found, wanted in ((last, z), (last_log_det, log_det), (back, x), (-inverse_log_det, log_det)):
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)


def test_every_flow_layer_is_in_the_catalogue() -> None:
    public = [getattr(nn, name) for name in nn.__all__]
    flows = {c.__name__ for c in public if isinstance(c, type) and issubclass(c, nn.Flow)} - CONTAINERS
    assert flows == set(BY_NAME)


def test_the_documentation_holds_the_table_as_the_command_prints_it() -> None:
    page = (Path(__file__).parents[2] / "docs/layers.md").read_text(encoding="utf-8")
    assert catalogue.markdown() in page, "docs/layers.md is behind: paste what `genkern layers --markdown` prints"
