"""Networks of diffusion models: published sizes, what each sample depends on, and what starts at zero."""

import math
from collections.abc import Callable

import pytest
import torch

from genkern.nn import EDMPreconditioning, ResidualMLP, TimeEmbedding, UNet, timestep_embedding

SMALL = {"channels": 8, "multipliers": (1, 2), "blocks": 1, "attention": (4,), "dropout": 0.0}
NETWORKS: dict[str, Callable[..., torch.nn.Module]] = {
    "paper": lambda **k: UNet((2, 8, 4), **SMALL, **k),
    "improved": lambda **k: UNet((2, 8, 4), heads=2, scale_shift=True, resample="block", **SMALL, **k),
    "score sde": lambda **k: UNet((2, 8, 4), resample="block", skip_rescale=True, embedding="fourier", **SMALL, **k),
    "mlp of pictures": lambda **k: ResidualMLP((2, 8, 4), hidden=16, layers=2, **k),
}


def moved(name: str, **options) -> torch.nn.Module:
    """In float64, with parameters of no special values."""
    torch.manual_seed(0)
    network = NETWORKS[name](**options).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return network.eval()


def test_the_network_of_the_paper_has_its_number_of_parameters():
    with torch.device("meta"):
        assert sum(p.numel() for p in UNet((3, 32, 32)).parameters()) == 35_746_307


def test_the_sinusoids_are_those_of_the_formula():
    t = torch.tensor([0.0, 1.0, 999.0], dtype=torch.float64)
    waves = timestep_embedding(t, 8)
    for i in range(4):
        angle = t * 10000.0 ** (-i / 3)
        assert torch.allclose(waves[:, i], angle.sin(), atol=1e-12)
        assert torch.allclose(waves[:, 4 + i], angle.cos(), atol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_sample_does_not_depend_on_its_neighbours_but_on_its_time(name):
    network = moved(name)
    x, t = torch.randn(3, 2, 8, 4, dtype=torch.float64), torch.tensor([0.0, 3.0, 7.5], dtype=torch.float64)
    out = network(x, t)
    assert torch.allclose(network(x[1:2], t[1:2]), out[1:2], atol=1e-12)
    assert (network(x[1:2], t[:1]) - out[1:2]).abs().amax() > 1e-6


@pytest.mark.parametrize("name", NETWORKS)
def test_a_class_counts_and_none_is_the_unknown_one(name):
    network = moved(name, classes=3, out_channels=4)
    x, t = torch.randn(2, 2, 8, 4, dtype=torch.float64), torch.tensor([1, 2])
    unknown = network(x, t)
    assert unknown.shape == (2, 4, 8, 4)
    assert torch.equal(network(x, t, torch.tensor([3, 3])), unknown)
    assert (network(x, t, torch.tensor([0, 1])) - unknown).abs().amax() > 1e-6
    with pytest.raises(ValueError, match="y must be None, since there are no classes"):
        moved(name)(x, t, torch.tensor([0, 1]))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_gradient_reaches_every_parameter_and_the_input(name):
    network = moved(name, classes=3)
    x = torch.randn(4, 2, 8, 4, dtype=torch.float64, requires_grad=True)
    network(x, torch.arange(4), torch.tensor([0, 1, 2, 3])).square().sum().backward()
    assert x.grad.abs().amax() > 0
    assert not [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().amax() > 0]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_output_starts_at_zero(name):
    torch.manual_seed(0)
    out = NETWORKS[name]()(torch.randn(2, 2, 8, 4), torch.tensor([1, 5]))
    assert torch.equal(out, torch.zeros_like(out))


def test_resampling_blocks_reach_the_same_shapes_at_every_resolution():
    for resample in ("conv", "block"):
        network = UNet((1, 8, 8), channels=8, multipliers=(1, 1, 2), blocks=2, attention=(2, 4), resample=resample)
        assert network(torch.randn(2, 1, 8, 8), torch.tensor([1, 5])).shape == (2, 1, 8, 8)


def test_attention_sees_every_site():
    network = moved("paper")
    x = torch.zeros(1, 2, 8, 4, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(network(x, torch.tensor([1]))[0, 0, 0, 0], x)
    assert bool((grad != 0).all())


def test_preconditioning_starts_as_the_best_linear_denoiser_of_unit_loss():
    """With F = 0 the weighted error of Gaussian data is 1 at every noise level."""
    denoiser = EDMPreconditioning(ResidualMLP((2,), hidden=16, embedding="fourier"), sigma_data=0.5).double()
    sigma = torch.tensor([0.002, 0.5, 80.0], dtype=torch.float64)
    x = torch.ones(3, 2, dtype=torch.float64)
    assert torch.allclose(denoiser(x, sigma), (0.25 / (sigma**2 + 0.25))[:, None] * x)
    skip = 0.25 / (sigma**2 + 0.25)
    error = (skip - 1).square() * 0.25 + (skip * sigma).square()  # of data N(0, .25)
    assert torch.allclose(denoiser.weight(sigma) * error, torch.ones_like(sigma))


def test_preconditioning_feeds_the_network_unit_variance_and_a_quarter_of_the_log_level():
    seen = {}

    class Ones(torch.nn.Module):
        def forward(self, x, t, y):
            seen.update(x=x, t=t)
            return torch.ones_like(x)

    denoiser = EDMPreconditioning(Ones())
    x, sigma = torch.tensor([[2.0]], dtype=torch.float64), torch.tensor([3.0], dtype=torch.float64)
    out = denoiser(x, sigma)
    root = math.sqrt(9.25)
    assert seen["x"].item() == pytest.approx(2 / root) and seen["t"].item() == pytest.approx(math.log(3) / 4)
    assert out.item() == pytest.approx(2 * 0.25 / 9.25 + 3 * 0.5 / root)


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match="multiples of 8 for 4 multipliers; got 28x28"):
        UNet((1, 28, 28))
    with pytest.raises(ValueError, match="resample must be one of"):
        UNet((1, 8, 8), resample="fir")
    with pytest.raises(ValueError, match="kind must be one of"):
        TimeEmbedding(8, kind="learned")
    with pytest.raises(ValueError, match="width must be even"):
        timestep_embedding(torch.zeros(1), 5)
    with pytest.raises(ValueError, match="sigma_data must be positive"):
        EDMPreconditioning(ResidualMLP((2,)), sigma_data=0.0)
