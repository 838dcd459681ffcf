"""MAF and IAF as models: one function in both directions, with and without a context, and densities that are right."""

import pytest
import torch
from torch.testing import assert_close

from genkern import models, ops, random
from genkern.experiments import TrainConfig, train
from genkern.models.flows import iaf, maf
from genkern.nn import InverseAutoregressive, MaskedAutoregressive
from genkern.nn.flows.autoregressive import by_passes

KEY = random.key(5)
SMALL = {
    "maf": (maf.MAF, maf.Config((4,), None, layers=3, hidden=24, batch_norm=False, alpha=None)),
    "maf mixture": (maf.MAF, maf.Config((4,), None, layers=2, hidden=24, components=4, batch_norm=False, alpha=None)),
    "iaf": (iaf.IAF, iaf.Config((4,), None, steps=3, hidden=24, alpha=None)),
}


def small(name: str, **changes):
    torch.manual_seed(2)
    family, config = SMALL[name]
    model = family(type(config)(**(vars(config) | changes)))
    model.initialize(torch.randn(32, 4), **({"context": torch.randn(32, 3)} if changes.get("context") == 3 else {}))
    return model.double().eval()


@pytest.mark.parametrize("name", SMALL)
def test_a_plane_of_the_density_integrates_to_one(name: str) -> None:
    torch.manual_seed(2)
    family, config = SMALL[name]
    model = family(type(config)(**(vars(config) | {"shape": (2,)})))
    model.initialize(torch.randn(64, 2))
    edge = torch.linspace(-12, 12, 601, dtype=torch.float64)
    grid = torch.cartesian_prod(edge, edge)
    with torch.no_grad():
        total = model.double().eval().log_prob(grid).exp().sum() * (edge[1] - edge[0]) ** 2
    assert abs(total.item() - 1) < 1e-3


@pytest.mark.parametrize("name", ["maf", "iaf"])
def test_a_context_changes_every_variable_and_both_directions_see_it(name: str) -> None:
    model = small(name, context=3)
    x, context = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    z, _ = model.encode(x, context=context)
    assert_close(model.decode(z, context=context), x, rtol=1e-9, atol=1e-9)
    assert (model.encode(x, context=context + 1)[0] != z).all()


def test_a_class_conditional_maf_tells_classes_apart() -> None:
    model = small("maf", classes=3, context=2)
    x = torch.randn(4, 4, dtype=torch.float64)
    each = model.log_prob_of_each_class(x)
    assert_close(each[:, 1], model.log_prob(x, y=1))
    assert model.sample(6, key=KEY, y=2).shape == (6, 4)


def test_the_mixture_is_the_density_of_the_latents() -> None:
    model = small("maf mixture")
    x = torch.randn(5, 4, dtype=torch.float64)
    z, log_det = model.encode(x)
    pairs = zip(model.prior.mean, model.prior.log_std, strict=True)
    each = torch.stack([ops.gaussian_log_prob(z, mean, log_std) for mean, log_std in pairs])
    assert_close(model.log_prob(x), (each + model.prior.logits.log_softmax(0)[:, None]).logsumexp(0) + log_det)


@pytest.mark.parametrize("name", SMALL)
def test_the_order_is_reversed_from_layer_to_layer(name: str) -> None:
    model = small(name)
    layers = [f for f in model.modules() if isinstance(f, MaskedAutoregressive)]
    orders = [layer.network.order for layer in layers]
    assert orders == [(0, 1, 2, 3) if i % 2 == 0 else (3, 2, 1, 0) for i in range(len(orders))]


def test_sampling_is_the_whole_recursion_of_every_layer() -> None:
    model = small("maf")
    z = torch.randn(6, 4, dtype=torch.float64)
    x = z
    for layer in reversed(list(model.flow)[1:]):
        x, _ = by_passes(layer, x)
    assert_close(model.decode(z), x, rtol=1e-10, atol=1e-10)


def test_the_gates_of_a_new_iaf_shrink_volume_and_its_normalisations_restore_it() -> None:
    model = small("iaf")
    x = torch.randn(64, 4, dtype=torch.float64)
    log_dets = {}
    for layer in list(model.flow)[1:]:
        x, log_dets[type(layer)] = layer(x)
    assert (log_dets[InverseAutoregressive] > 0).all()  # the density direction
    assert 0.5 < x.std() < 2


def test_mixtures_of_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="MAF: components must be 1 or more, and 1 where there are classes; got 2"):
        maf.MAF(maf.Config((2,), None, components=2, classes=3, alpha=None))


@pytest.mark.parametrize("name", ["maf-mnist", "maf-small", "maf-2d", "iaf-small", "iaf-2d"])
def test_every_preset_builds_and_draws_what_its_data_are(name: str) -> None:
    model = models.build(name)
    x = model.eval().sample(2, key=KEY)
    assert x.shape == (2, *model.config.shape)
    assert x.dtype == (torch.float32 if model.config.levels is None else torch.uint8)


@pytest.mark.parametrize(("model", "toy", "within"), [("maf-2d", "two-moons", 0.1), ("iaf-2d", "checkerboard", 0.35)])
def test_densities_come_near_the_entropy_of_a_toy_and_never_below(model, toy, within, tmp_path) -> None:
    config = TrainConfig(model=model, data=toy, steps=800, batch_size=256, seed=0)
    summary = train(config, tmp_path / "run", device="cpu")
    exact = summary["baselines"]["exact density on the test part"]
    assert exact <= summary["test"] <= exact + within
