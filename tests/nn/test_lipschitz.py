"""Lipschitz layers: the bound is that of the map itself, and it holds when it is needed."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from genkern.nn import LipSwish, SpectralConv2d, SpectralLinear


def dense(layer: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """The matrix of a layer without its bias."""
    layer = copy.deepcopy(layer).double()
    nn.init.zeros_(layer.bias)
    size = torch.Size(shape).numel()
    return layer(torch.eye(size, dtype=torch.float64).view(size, *shape)).flatten(1).T


LAYERS = {
    "linear": (lambda bound: SpectralLinear(12, 7, bound=bound), (12,)),
    "conv 3x3": (lambda bound: SpectralConv2d(3, 5, 3, (6, 4), bound=bound), (3, 6, 4)),
    "conv 1x1": (lambda bound: SpectralConv2d(3, 5, 1, (6, 4), bound=bound), (3, 6, 4)),
    "conv 5x5": (lambda bound: SpectralConv2d(2, 2, 5, (7, 7), bound=bound), (2, 7, 7)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_norm_of_the_dense_operator_is_the_bound(name: str) -> None:
    torch.manual_seed(0)
    build, shape = LAYERS[name]
    layer = build(0.9)
    with torch.no_grad():
        layer.weight.mul_(20)  # far above the bound, and the buffers do not know it
    norm = torch.linalg.matrix_norm(dense(layer.eval(), shape), 2)
    assert_close(norm, torch.tensor(0.9, dtype=torch.float64), rtol=1e-5, atol=0)
    with torch.no_grad():
        layer.train().weight.mul_(1e-3)
    weight = layer.eval().bounded_weight()
    assert torch.equal(weight, layer.weight), "a map below the bound is left alone"


def test_a_smaller_picture_has_no_larger_norm() -> None:
    torch.manual_seed(0)
    layer = SpectralConv2d(2, 2, 3, (8, 8), bound=0.9)
    layer.weight.data.mul_(20)
    layer.eval()
    assert torch.linalg.matrix_norm(dense(layer, (2, 5, 3)), 2) <= 0.9
    with pytest.raises(ValueError, match="x must be .B, C, H, W. within .8, 8.; got .1, 2, 9, 8."):
        layer(torch.zeros(1, 2, 9, 8))


@pytest.mark.parametrize("name", LAYERS)
def test_training_follows_a_weight_that_moves(name: str) -> None:
    torch.manual_seed(0)
    build, shape = LAYERS[name]
    layer = build(0.9)
    layer.weight.data.mul_(5)
    layer.train()
    optimizer = torch.optim.SGD(layer.parameters(), 0.05)
    for _ in range(40):
        optimizer.zero_grad()
        (layer(torch.randn(16, *shape)) - 1).square().mean().backward()
        optimizer.step()
    layer(torch.randn(2, *shape))
    norm = torch.linalg.matrix_norm(dense(layer, shape), 2)
    assert 0.85 < norm < 0.95, norm


def test_the_gradient_knows_that_the_weight_is_divided() -> None:
    torch.manual_seed(0)
    layer = SpectralLinear(5, 4, bound=0.9).double()
    layer.weight.data.mul_(5)
    layer.eval()
    x = torch.randn(3, 5, dtype=torch.float64)

    def truth(weight: Tensor) -> Tensor:
        return x @ (0.9 * weight / torch.linalg.matrix_norm(weight, 2)).T + layer.bias

    cotangent = torch.randn(3, 4, dtype=torch.float64)
    (found,) = torch.autograd.grad(layer(x), layer.weight, cotangent)
    weight = layer.weight.detach().clone().requires_grad_()
    (wanted,) = torch.autograd.grad(truth(weight), weight, cotangent)
    assert_close(found, wanted, rtol=1e-6, atol=1e-8)


def test_a_layer_that_is_run_again_is_the_same_layer() -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(SpectralLinear(4, 8), LipSwish(), SpectralLinear(8, 4))
    for module in (layer[0], layer[2]):
        module.weight.data.mul_(5)
    x, twin = torch.randn(3, 4, requires_grad=True), copy.deepcopy(layer)
    grads = torch.autograd.grad(layer(x).square().sum(), [x, *layer.parameters()])
    again = checkpoint(twin, x, use_reentrant=False).square().sum()
    for grad, wanted in zip(torch.autograd.grad(again, [x, *twin.parameters()]), grads, strict=True):
        assert torch.equal(grad, wanted)


def test_evaluation_depends_on_the_weights_alone() -> None:
    torch.manual_seed(0)
    layer, other = SpectralConv2d(2, 3, 3, (5, 5)), SpectralConv2d(2, 3, 3, (5, 5))
    for _ in range(3):
        with torch.no_grad():
            layer.weight.add_(torch.randn_like(layer.weight))
        layer(torch.randn(1, 2, 5, 5))
    other.load_state_dict({**layer.state_dict(), "u": other.u.clone(), "v": other.v.clone()})
    x = torch.randn(2, 2, 5, 5)
    assert torch.equal(layer.eval()(x), other.eval()(x))
    before = copy.deepcopy(layer.state_dict())
    layer(x)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


def test_lipswish_has_slope_one_at_most_for_every_beta() -> None:
    unit = LipSwish().double()
    x = torch.linspace(-30, 30, 6001, dtype=torch.float64, requires_grad=True)
    for raw in (-5.0, 0.5, 4.0):
        unit.raw_beta.data.fill_(raw)
        (slope,) = torch.autograd.grad(unit(x).sum(), x)
        assert slope.abs().max() <= 1


def test_wrong_options_say_what_is_right() -> None:
    with pytest.raises(ValueError, match="SpectralConv2d: kernel_size must be odd; got 4"):
        SpectralConv2d(1, 1, 4, (8, 8))
    with pytest.raises(ValueError, match="SpectralLinear: bound must be positive; got 0"):
        SpectralLinear(2, 2, bound=0)
    with pytest.raises(ValueError, match="SpectralLinear: iterations must be at least 1; got 0"):
        SpectralLinear(2, 2, iterations=0)
