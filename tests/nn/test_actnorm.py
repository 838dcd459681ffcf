"""ActNorm initialises once, from the first training batch, in the density direction, and never otherwise."""

import pytest
import torch
from torch.testing import assert_close

from genkern.nn import ActNorm, AffineCoupling, FlowSequential, InvertibleConv1x1

FORMS = ["scale_then_shift", "shift_then_scale"]


def data(n: int = 32) -> torch.Tensor:
    scale, shift = torch.tensor([1.0, 10.0, 0.1]), torch.tensor([0.0, -5.0, 100.0])
    return torch.randn(n, 3, 4, 4) * scale.view(3, 1, 1) + shift.view(3, 1, 1)


@pytest.mark.parametrize("form", FORMS)
def test_the_first_training_batch_comes_out_normalised(form: str) -> None:
    z, log_det = ActNorm(3, form=form)(data())
    assert_close(z.mean((0, 2, 3)), torch.zeros(3), atol=1e-3, rtol=0)
    assert_close(z.var((0, 2, 3), correction=0), torch.ones(3), atol=1e-3, rtol=0)
    assert log_det.shape == (32,)


def test_later_batches_leave_the_parameters_alone() -> None:
    layer = ActNorm(3)
    layer(data())
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    layer(7 * data())
    assert_close(layer.state_dict(), before, rtol=0, atol=0)


def test_evaluation_and_sampling_do_not_initialise() -> None:
    layer, x = ActNorm(3), data()
    layer.inverse(x)
    assert_close(layer.eval()(x)[0], x)
    layer.inverse(x)
    assert not layer.initialized and not layer.log_scale.any()


def test_a_loaded_layer_does_not_initialise_again() -> None:
    trained, loaded = ActNorm(3), ActNorm(3)
    trained(data())
    loaded.load_state_dict(trained.state_dict())
    loaded(9 * data() + 4)
    assert_close(loaded.state_dict(), trained.state_dict(), rtol=0, atol=0)


def test_a_layer_loaded_before_it_was_initialised_still_initialises() -> None:
    layer = ActNorm(3)
    layer.load_state_dict(ActNorm(3).state_dict())
    layer(data())
    assert layer.initialized


def test_parameters_written_elsewhere_are_kept() -> None:
    layer = ActNorm(3)
    layer.log_scale.data.fill_(2.0)
    layer.initialized.fill_(True)  # as a checkpoint loader that copies into the tensors does
    layer(data())
    assert_close(layer.log_scale.data, torch.full((3,), 2.0))


@pytest.mark.parametrize("x", [torch.full((4, 3, 2, 2), 5.0), torch.randn(1, 3), torch.zeros(2, 3)])
def test_a_constant_channel_stays_finite(x: torch.Tensor) -> None:
    layer = ActNorm(3)
    z, log_det = layer(x)
    (z.sum() + log_det.sum()).backward()
    assert z.isfinite().all() and log_det.isfinite().all() and layer.log_scale.grad.isfinite().all()


def test_a_batch_of_nothing_or_of_other_channels_initialises_nothing() -> None:
    layer = ActNorm(3)
    assert layer(torch.zeros(0, 3))[0].shape == (0, 3) and not layer.initialized
    with pytest.raises(ValueError, match=r"x must have 3 channels; got \[2, 4\]"):
        layer(torch.randn(2, 4))
    layer(torch.randn(2, 3))
    assert layer.initialized


def test_a_container_initialises_its_layers_in_sequence() -> None:
    network = torch.nn.Conv2d(2, 2, 3, padding=1)
    flow = FlowSequential(ActNorm(3), InvertibleConv1x1(3, actnorm=True), AffineCoupling(network), ActNorm(3)).eval()
    x = data()
    z = flow.initialize(x)
    assert not flow.training and not flow[3].training
    assert_close(flow(x)[0], z, atol=1e-5, rtol=1e-5)
    assert_close(z.std((0, 2, 3)), torch.ones(3), atol=1e-2, rtol=0)
    before = {name: value.clone() for name, value in flow.state_dict().items()}
    flow.initialize(2 * x)
    assert_close(flow.state_dict(), before, rtol=0, atol=0)


def test_initialisation_compiles_without_a_graph_break() -> None:
    torch._dynamo.reset()
    layer, plain, x = ActNorm(3), ActNorm(3), data()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for batch in (x, 2 * x, 3 * x):
        assert_close(compiled(batch), plain(batch), atol=1e-4, rtol=1e-4)
    assert_close(layer.state_dict(), plain.state_dict())
