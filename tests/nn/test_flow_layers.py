"""Every flow layer: inverse, log-determinant, gradients, saving; and what is special about each."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from genkern.nn import (
    ActNorm,
    AdditiveCoupling,
    AffineCoupling,
    ChannelAffine,
    Flatten,
    Flow,
    FlowBatchNorm,
    FlowSequential,
    Inverse,
    InvertibleConv1x1,
    SplineCoupling,
    Split,
    Squeeze,
    Unsqueeze,
    checkerboard,
)
from genkern.testing import check_flow, settle

PICTURE, VECTOR = (6, 2, 4), (5,)
MASK = checkerboard(*PICTURE)


def conv(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, outputs, 1))


def mlp(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, outputs))


def steps() -> list[Flow]:
    return [InvertibleConv1x1(3, "free", actnorm=True), AffineCoupling(conv(2, 2)), InvertibleConv1x1(3)]


LAYERS = {
    "affine sigmoid": (lambda: AffineCoupling(conv(3, 6)), PICTURE),
    "affine exp interleaved": (lambda: AffineCoupling(conv(3, 6), scale="exp", layout="interleaved"), PICTURE),
    "affine tanh flip": (lambda: AffineCoupling(conv(3, 6), scale="tanh", layout="shift_scale", flip=True), PICTURE),
    "affine checkerboard": (lambda: AffineCoupling(conv(6, 12), scale="tanh", mask=MASK), PICTURE),
    "affine one mask for all channels": (lambda: AffineCoupling(conv(6, 12), mask=MASK[:1]), PICTURE),
    "affine odd vector": (lambda: AffineCoupling(mlp(3, 4)), VECTOR),
    "affine odd vector flip": (lambda: AffineCoupling(mlp(2, 6), flip=True, transformed=3), VECTOR),
    "additive": (lambda: AdditiveCoupling(conv(3, 3)), PICTURE),
    "additive mask": (lambda: AdditiveCoupling(mlp(5, 5), mask=torch.arange(5) % 2 == 0), VECTOR),
    "channel affine": (lambda: ChannelAffine(6), PICTURE),
    "scaling": (lambda: ChannelAffine(5, bias=False), VECTOR),
    "actnorm": (lambda: ActNorm(6), PICTURE),
    "actnorm shift first": (lambda: ActNorm(5, form="shift_then_scale"), VECTOR),
    "batch norm": (lambda: FlowBatchNorm(6), PICTURE),
    "conv plu": (lambda: InvertibleConv1x1(6), PICTURE),
    "conv plu actnorm": (lambda: InvertibleConv1x1(6, actnorm=True), PICTURE),
    "conv free": (lambda: InvertibleConv1x1(6, "free"), PICTURE),
    "conv free bias": (lambda: InvertibleConv1x1(5, "free", bias=True), VECTOR),
    "conv free actnorm": (lambda: InvertibleConv1x1(6, "free", actnorm=True), PICTURE),
    "squeeze": (Squeeze, PICTURE),
    "unsqueeze": (Unsqueeze, (8, 2, 2)),
    "flatten": (lambda: Flatten(PICTURE), PICTURE),
    "split": (lambda: Split(conv(3, 6)), PICTURE),
    "split with rest": (lambda: Split(conv(3, 6), FlowSequential(*steps())), PICTURE),
    "split fixed": (lambda: Split(rest=InvertibleConv1x1(3, "free")), VECTOR),
    "inverse": (lambda: Inverse(AffineCoupling(conv(3, 6))), PICTURE),
    "sequence": (lambda: FlowSequential(Squeeze(), InvertibleConv1x1(24, "free"), Unsqueeze(), ActNorm(6)), PICTURE),
    "empty sequence": (FlowSequential, PICTURE),
}


def make(name: str, dtype: torch.dtype = torch.float64) -> tuple[Flow, Tensor]:
    """A layer in evaluation mode with parameters and running statistics of no special values, and an input."""
    torch.manual_seed(len(name))
    build, shape = LAYERS[name]
    x = torch.randn(3, *shape, dtype=torch.float64)
    return settle(build(), x).to(dtype), x.to(dtype)


@pytest.mark.parametrize("name", LAYERS)
def test_every_variant_of_a_layer_keeps_its_word(name: str) -> None:
    torch.manual_seed(len(name))
    build, shape = LAYERS[name]
    check_flow(build(), shape, noise=0.2)


def test_a_coupling_reads_the_passive_half_only() -> None:
    layer, x = make("affine checkerboard")
    moved = torch.where(MASK, x, x + torch.randn_like(x))
    assert torch.equal(layer.parameters_for(x, None), layer.parameters_for(moved, None))
    assert torch.equal(layer(x)[0][:, MASK], x[:, MASK])


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (
            AffineCoupling(nn.Linear(2, 6)),
            (8, 4),
            "return 4 channels, 2 for each of the 2 transformed ones",
        ),
        (AdditiveCoupling(nn.Linear(2, 3)), (8, 4), "AdditiveCoupling: network must return 2 channels"),
        (SplineCoupling(nn.Linear(2, 69)), (8, 4), "SplineCoupling: network must return 46 channels"),
        (AffineCoupling(nn.Linear(1, 2)), (8, 1), "x must have channels of either kind"),
        (Split(nn.Linear(2, 6)), (8, 4), "Split: prior must return 4 channels, 2 for each that leaves"),
        (AffineCoupling(nn.Linear(2, 4), transformed=4), (8, 4), "of which 4 channels are transformed"),
    ],
)
def test_no_channel_of_a_coupling_drives_itself(layer: Flow, shape: tuple[int, ...], message: str) -> None:
    """The log-determinant would be that of another map."""
    for direction in (layer, layer.inverse):
        with pytest.raises(ValueError, match=message):
            direction(torch.randn(shape))


def test_a_coupling_hands_the_context_to_its_network() -> None:
    class Conditioned(nn.Module):
        def forward(self, x: Tensor, context: Tensor) -> Tensor:
            return torch.cat([x + context, x * context], 1)

    layer = AffineCoupling(Conditioned())
    x, context = torch.randn(3, 4), torch.randn(3, 1, requires_grad=True)
    z, log_det = layer(x, context)
    (z.sum() + log_det.sum()).backward()
    assert context.grad is not None and context.grad.abs().min() > 0
    assert_close(layer.inverse(z, context)[0], x)


def test_the_state_keeps_its_precision_under_autocast() -> None:
    flow = FlowSequential(ActNorm(6), InvertibleConv1x1(6, "free", actnorm=True), AffineCoupling(conv(3, 6)))
    x = torch.randn(3, *PICTURE)
    with torch.autocast("cpu", torch.bfloat16):
        z, log_det = flow(x)
        back, _ = flow.eval().inverse(z)
    assert z.dtype == log_det.dtype == torch.float32
    assert_close(back, x, rtol=0, atol=1e-5)


# -- 1x1 convolutions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parameterization", ["plu", "free"])
def test_a_folded_actnorm_is_an_actnorm_before_the_convolution(parameterization: str) -> None:
    folded = InvertibleConv1x1(6, parameterization, actnorm=True).double()
    x = 3 * torch.randn(5, *PICTURE, dtype=torch.float64) + 2
    norm = ActNorm(6).double()
    plain = InvertibleConv1x1(6, parameterization).double()
    plain.load_state_dict({k: v for k, v in folded.state_dict().items() if not k.startswith("actnorm")})
    assert_close(folded(x), FlowSequential(norm, plain)(x), rtol=1e-12, atol=1e-12)
    assert_close(folded.actnorm.state_dict(), norm.state_dict())


@pytest.mark.parametrize("parameterization", ["plu", "free"])
def test_a_matrix_can_be_set(parameterization: str) -> None:
    layer, weight = InvertibleConv1x1(4, parameterization), torch.randn(4, 4)
    layer.set_matrix(weight)
    assert_close(layer.matrix(), weight)


def update_in_place(layer: InvertibleConv1x1) -> None:
    with torch.no_grad():
        layer.weight.mul_(1.5)


def update_behind_autograd(layer: InvertibleConv1x1) -> None:
    layer.weight.data[0, 0] += 1.0


def update_by_optimizer(layer: InvertibleConv1x1) -> None:
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    layer(torch.randn(2, 4))[0].square().sum().backward()
    optimizer.step()


def update_by_loading(layer: InvertibleConv1x1) -> None:
    layer.load_state_dict(InvertibleConv1x1(4, "free").state_dict())


def update_by_new_tensor(layer: InvertibleConv1x1) -> None:
    layer.weight = nn.Parameter(torch.randn(4, 4))


def update_dtype(layer: InvertibleConv1x1) -> None:
    layer.to(torch.float64)


UPDATES = [
    update_in_place,
    update_behind_autograd,
    update_by_optimizer,
    update_by_loading,
    update_by_new_tensor,
    update_dtype,
]


@pytest.mark.parametrize("contained", [False, True])
@pytest.mark.parametrize("update", UPDATES)
def test_the_inverse_that_sampling_keeps_is_never_stale(update, contained: bool) -> None:
    layer = InvertibleConv1x1(4, "free")
    flow = FlowSequential(layer) if contained else layer
    with torch.no_grad():
        flow.inverse(torch.randn(3, 4))
    update(layer)
    x = torch.randn(3, 4, dtype=layer.weight.dtype)
    with torch.no_grad():
        z, log_det = flow(x)
        back, inverse_log_det = flow.inverse(z)
    assert_close(back, x, rtol=1e-4, atol=1e-5)
    assert_close(inverse_log_det, -log_det)


def test_the_inverse_is_computed_once_while_the_weight_stays(monkeypatch) -> None:
    from genkern import ops

    calls = []
    real = ops.inverse_and_log_abs_det
    monkeypatch.setattr(ops, "inverse_and_log_abs_det", lambda matrices: calls.append(len(matrices)) or real(matrices))
    flow = FlowSequential(*(InvertibleConv1x1(4) for _ in range(3)))
    with torch.no_grad():
        for _ in range(4):
            flow.inverse(torch.randn(2, 4))
    assert calls == [3]
    assert not copy.deepcopy(flow)._inverses.seen


def test_a_singular_weight_has_log_det_minus_infinity_and_no_inverse() -> None:
    layer = InvertibleConv1x1(3, "free")
    layer.weight.data.zero_()
    assert layer(torch.randn(2, 3))[1].eq(-torch.inf).all()
    with pytest.raises(ValueError, match="singular"):
        layer.inverse(torch.randn(2, 3))


def test_wrong_options_say_what_is_right() -> None:
    with pytest.raises(ValueError, match="parameterization must be 'plu' or 'free', got 'lu'"):
        InvertibleConv1x1(3, "lu")
    with pytest.raises(ValueError, match="bias must be False"):
        InvertibleConv1x1(3, actnorm=True, bias=True)
    with pytest.raises(ValueError, match="policy must be one of"):
        FlowSequential(policy="reverse")
    with pytest.raises(TypeError, match="layers must be flows; got Linear"):
        FlowSequential(nn.Linear(2, 2))


# -- batch normalisation -----------------------------------------------------------------------------------------------


def test_batch_norm_trains_on_the_batch_and_evaluates_on_running_statistics() -> None:
    layer, x = FlowBatchNorm(6, momentum=1.0), 3 * torch.randn(64, *PICTURE) + 1
    z, log_det = layer(x)
    assert_close(z.mean((0, 2, 3)), torch.zeros(6), atol=1e-5, rtol=0)
    assert_close(z.std((0, 2, 3)), torch.ones(6), atol=1e-2, rtol=0)
    z_eval, log_det_eval = layer.eval()(x)
    assert_close(z_eval, z, atol=1e-2, rtol=1e-2)
    assert_close(log_det_eval, log_det, atol=0.1, rtol=1e-2)
