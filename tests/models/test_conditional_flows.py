"""Flows given a label or a context, and learned dequantisation noise: the same accounting, with conditions."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from genkern import models, ops, random
from genkern.experiments import TrainConfig, train
from genkern.models.flows import glow, nice, nsf, realnvp
from genkern.models.flows._base import FlowModel
from genkern.nn import ChannelAffine
from genkern.nn.flows.priors import draw_labels
from genkern.testing import jacobian_log_det

PICTURE = {"shape": (1, 4, 4), "levels": 17}
BASE_ONLY: dict[str, FlowModel] = {
    "nice, prior": nice.NICE(nice.Config(**PICTURE, hidden=8, layers=1, prior="gaussian", classes=3)),
    "glow, prior": glow.Glow(glow.Config(**PICTURE, scales=2, steps=2, hidden=4, classes=3)),
    "realnvp vector, prior": realnvp.RealNVP(
        realnvp.Config((5,), None, couplings=4, hidden=8, blocks=1, alpha=None, classes=3)
    ),
}
EMBEDDED: dict[str, FlowModel] = {
    "nice logistic": nice.NICE(nice.Config(**PICTURE, hidden=8, layers=1, classes=3, context=5)),
    "nsf": nsf.NSF(nsf.Config(**PICTURE, scales=1, steps=1, bins=3, hidden=4, blocks=1, classes=3, context=5)),
    "nsf autoregressive": nsf.NSF(
        nsf.Config((4,), None, steps=2, form="autoregressive", bins=3, hidden=8, blocks=1, classes=3, context=5)
    ),
    "glow": glow.Glow(glow.Config(**PICTURE, scales=2, steps=2, hidden=4, classes=3, context=5, policy="invert")),
    "glow additive": glow.Glow(
        glow.Config(**PICTURE, scales=1, steps=2, hidden=4, classes=3, context=5, coupling="additive")
    ),
    "realnvp": realnvp.RealNVP(
        realnvp.Config(**PICTURE, couplings=2, hidden=4, blocks=1, classes=3, context=5, policy="checkpoint")
    ),
    "realnvp vector": realnvp.RealNVP(
        realnvp.Config((5,), None, couplings=4, hidden=8, blocks=1, alpha=None, classes=3, context=5)
    ),
}
CLASSES = {**BASE_ONLY, **EMBEDDED}
LABELS = torch.tensor([2, 0, 1, 2])
KEY = random.key(7)


def data(model: FlowModel, n: int = 4) -> Tensor:
    shape = (n, *model.config.shape)
    generator = torch.Generator().manual_seed(3)
    if model.config.levels is None:
        return torch.randn(shape, generator=generator)
    return torch.randint(0, model.config.levels, shape, generator=generator, dtype=torch.uint8)


def moved(fresh: FlowModel, dtype: torch.dtype = torch.float32) -> FlowModel:
    """The model, initialised and with parameters of no special values, in evaluation mode."""
    torch.manual_seed(0)
    fresh = type(fresh)(fresh.config)
    batch = models.Batch(data(fresh), LABELS if fresh.classes else None)
    context = torch.randn(4, fresh.context_size) if fresh.context_size and not fresh.classes else None
    fresh.initialize(batch, key=KEY, context=context)
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    fresh.train().loss(batch, key=KEY, context=context)  # moves running statistics
    return fresh.to(dtype).eval()


@pytest.mark.parametrize("name", CLASSES)
def test_log_prob_given_a_label_is_the_change_of_variables(name: str) -> None:
    model = moved(CLASSES[name], torch.float64)
    x, y = data(model, 2), LABELS[:2]
    v, log_det = model.dequantize(x, key=KEY)
    z, _ = model.encode(x, y=y, key=KEY)
    truth = model.prior.log_prob(z, y) + log_det
    for i in range(2):
        context = None if model.embedding is None else model.embedding(y[i : i + 1])
        part = jacobian_log_det(lambda sample, c=context: model.flow(sample, c)[0], v[i : i + 1])
        truth[i] += part[0]
    assert_close(model.log_prob(x, y=y, key=KEY), truth, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", CLASSES)
def test_without_labels_the_density_is_the_mixture_over_them(name: str) -> None:
    model = moved(CLASSES[name])
    x = data(model)
    each = torch.stack([model.log_prob(x, y=c, key=KEY) for c in range(3)], dim=1)
    assert each.std(1).min() > 1e-3  # the label matters
    assert_close(model.log_prob_of_each_class(x, key=KEY), each, rtol=1e-4, atol=1e-4)
    assert_close(model.log_prob(x, key=KEY), each.logsumexp(1) - math.log(3), rtol=1e-4, atol=1e-4)
    assert_close(model.log_prob(x, y=LABELS, key=KEY), each[torch.arange(4), LABELS], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", EMBEDDED)
def test_every_network_of_the_flow_sees_the_label(name: str) -> None:
    model = moved(EMBEDDED[name]).train()
    model.loss(models.Batch(data(model), LABELS), key=KEY).total.backward()
    projections = [(n, p) for n, p in model.named_parameters() if "projection" in n]
    conditions = sum(type(m).__name__ in ("AffineCoupling", "AdditiveCoupling") for m in model.modules())
    assert len(projections) >= conditions
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not [n for n, p in [*projections, ("embedding", model.embedding.weight)] if not p.grad.any()]


@pytest.mark.parametrize("name", CLASSES)
def test_data_are_reconstructed_given_any_label_or_none(name: str) -> None:
    model = moved(CLASSES[name])
    x = data(model)
    for y in (None, 1, LABELS):
        assert_close(model.reconstruct(x, y=y, key=KEY), x, rtol=0, atol=0 if model.config.levels else 1e-4)
        assert model.reconstruction_error(x, y=y, key=KEY) < 1e-4


@pytest.mark.parametrize("name", CLASSES)
def test_samples_of_a_label_are_those_of_the_key_and_the_index(name: str) -> None:
    model = moved(CLASSES[name])
    whole = model.sample(5, key=KEY)
    drawn = draw_labels(3, 5, key=KEY)
    assert torch.equal(whole, model.sample(5, key=KEY, y=drawn))
    assert_close(model.sample(2, key=KEY, sample_offset=3), whole[3:], rtol=1e-4, atol=1)
    assert torch.equal(model.sample(3, key=KEY, y=1), model.sample(3, key=KEY, y=torch.tensor([1, 1, 1])))
    assert not torch.equal(model.sample(5, key=KEY, y=1), model.sample(5, key=KEY, y=2))


@pytest.mark.parametrize("name", ["realnvp vector, prior", "realnvp vector"])
def test_the_log_prob_of_a_sample_is_the_models_given_its_label(name: str) -> None:
    model = moved(CLASSES[name])
    x, log_prob = model.sample_and_log_prob(6, key=KEY, y=2)
    assert torch.equal(x, model.sample(6, key=KEY, y=2))
    assert_close(log_prob, model.log_prob(x, y=2), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dims", [2, 4])
def test_a_context_of_the_callers_reaches_networks_and_gets_a_gradient(dims: int) -> None:
    config = glow.Config(**PICTURE, scales=2, steps=2, hidden=4, context=3)
    if dims == 2:
        config = realnvp.Config((5,), None, couplings=2, hidden=8, blocks=1, alpha=None, context=3)
    model = moved((glow.Glow if dims == 4 else realnvp.RealNVP)(config))
    x, context = data(model), torch.randn(4, 3, requires_grad=True)
    model.log_prob(x, context=context, key=KEY).sum().backward()
    assert context.grad is not None and context.grad.abs().amin(1).min() > 0
    assert_close(model.reconstruct(x, context=context, key=KEY), x, rtol=0, atol=0 if dims == 4 else 1e-4)
    assert model.sample(4, key=KEY, context=context.detach()).shape == x.shape


def test_what_does_not_fit_is_named() -> None:
    plain = glow.Glow(glow.Config(**PICTURE, scales=1, steps=1, hidden=4))
    x = data(plain)
    with pytest.raises(ValueError, match="Glow: y was given, but the model has no classes"):
        plain.log_prob(x, y=LABELS)
    with pytest.raises(ValueError, match="context must be None: the config has no context; got .4, 3."):
        plain.log_prob(x, context=torch.randn(4, 3))
    model = EMBEDDED["glow"]
    with pytest.raises(ValueError, match=r"Glow: y must be in \[0, 3\); got 3"):
        model.sample(2, key=KEY, y=3)
    with pytest.raises(ValueError, match=r"Glow: y must be int64 \[4\]; got torch.int64 \[2\]"):
        model.log_prob(x, y=LABELS[:2])
    with pytest.raises(ValueError, match="Glow: y must be given, for the networks see them"):
        model.encode(x)
    with pytest.raises(ValueError, match="context must be None where it is the embedding of the labels"):
        model.log_prob(x, y=LABELS, context=torch.randn(4, 5))
    with pytest.raises(ValueError, match=r"context must be \[B, 3\]; got None"):
        realnvp.RealNVP(realnvp.Config((5,), None, blocks=1, context=3)).log_prob(torch.randn(2, 5))
    with pytest.raises(ValueError, match="NICE: classes need context, or prior='gaussian'"):
        nice.NICE(nice.Config(classes=3))
    with pytest.raises(ValueError, match="dequantization must be 'uniform' or 'variational'; got 'none'"):
        glow.Glow(glow.Config(dequantization="none"))


@pytest.mark.parametrize("options", [{"classes": 10}, {"classes": 10, "context": 8}], ids=["prior", "embedding"])
def test_a_conditional_model_is_trained_on_labels_and_sampled(options: dict[str, int], tmp_path: Path) -> None:
    small = {"scales": 1, "steps": 2, "hidden": 8, **options}
    config = TrainConfig("glow-small", options=small, steps=150, evaluate_every=150, ema=0.0, warmup=0)
    summary = train(config, tmp_path / "run", device="cpu")
    assert summary["test"] < math.log2(17) and summary["reconstruction"]["max"] == 0
    model = models.load(tmp_path / "run" / "best")
    assert model.prior.mean.abs().max() > 1e-3  # labels arrived
    assert model.sample(3, key=KEY, y=7).shape == (3, 1, 8, 8)


# -- variational dequantisation ----------------------------------------------------------------------------------------

VARIATIONAL: dict[str, FlowModel] = {
    "glow": glow.Glow(glow.Config(**PICTURE, scales=2, steps=2, hidden=4, dequantization="variational")),
    "realnvp logit": realnvp.RealNVP(
        realnvp.Config(**PICTURE, couplings=2, hidden=4, blocks=1, dequantization="variational")
    ),
}


@pytest.mark.parametrize("name", VARIATIONAL)
def test_new_learned_noise_is_the_uniform_noise(name: str) -> None:
    torch.manual_seed(0)
    model = type(VARIATIONAL[name])(VARIATIONAL[name].config)
    x = data(model)
    model.eval()
    found = model.log_prob(x, key=KEY)
    model.noise = None
    assert_close(found, model.log_prob(x, key=KEY), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", VARIATIONAL)
def test_learned_noise_stays_in_its_level_and_is_accounted_for(name: str) -> None:
    model = moved(VARIATIONAL[name], torch.float64)
    x = data(model)
    v, log_det = model.dequantize(x, key=KEY)
    assert torch.equal(model.quantize(v), x)
    assert_close(model.reconstruct(x, key=KEY), x, rtol=0, atol=0)
    assert_close(model._log_det_of_dequantization(v), log_det, rtol=1e-6, atol=1e-4)
    u, log_q = model.noise(x, key=KEY, dtype=torch.float64)
    assert_close(model.noise.log_prob(u, x), log_q)
    uniform = log_det + log_q  # the same continuous values, under uniform noise
    model.noise = None
    assert_close(model._log_det_of_dequantization(v), uniform, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", VARIATIONAL)
def test_learned_noise_is_drawn_by_key_and_index_and_trained(name: str) -> None:
    model = moved(VARIATIONAL[name])
    x = data(model)
    whole = model.log_prob(x, key=KEY)
    assert_close(model.log_prob(x[2:], key=KEY, sample_offset=2), whole[2:], rtol=1e-4, atol=1e-4)
    assert not torch.equal(model.log_prob(x, key=random.key(8)), whole)
    model.train().loss(x, key=KEY).total.backward()
    assert not [n for n, p in model.noise.named_parameters() if p.grad is None or not p.grad.any()]


def test_the_bound_is_exact_for_noise_of_the_right_density() -> None:
    """A density p(v) = 2 v on [0, 1) over 4 levels, and q(u | x) in proportion to it: log p(x), whatever the noise."""
    x = torch.tensor([[0], [1], [2], [3]])
    exact = torch.log(((x[:, 0] + 1.0) ** 2 - x[:, 0] ** 2) / 16)
    draws = []
    for seed in range(5):
        t = random.uniform(random.key(seed), (4, 1), dtype=torch.float64)
        u = ((x**2 + t * (2 * x + 1)).sqrt() - x).double()  # the inverse of q's cumulative distribution
        log_q = torch.log(2 * (x + u) / (2 * x + 1))[:, 0]
        v, log_det = ops.dequantize(x, 4, noise=u, dtype=torch.float64)
        draws.append(torch.log(2 * v[:, 0]) + log_det - log_q)
    assert_close(torch.stack(draws), exact.double().expand(5, 4))


def test_noise_of_a_fixed_flow_has_the_density_that_is_known() -> None:
    """v = (e - b) e^-s of a logistic e: log q(u) is that of the logistic distribution, shifted and scaled."""
    model = moved(VARIATIONAL["glow"], torch.float64)
    flow = ChannelAffine(1).double()
    flow.log_scale.data.fill_(0.4)
    flow.bias.data.fill_(-0.7)
    model.noise.flow, model.noise.features = flow, None
    x = data(model)
    u, log_q = model.noise(x, key=KEY, dtype=torch.float64)
    logit = torch.distributions.TransformedDistribution(
        torch.distributions.Uniform(torch.zeros((), dtype=torch.float64), 1),
        [
            torch.distributions.SigmoidTransform().inv,
            torch.distributions.AffineTransform(0.7 * math.exp(-0.4), math.exp(-0.4)),
            torch.distributions.SigmoidTransform(),
        ],
    )
    assert_close(log_q, logit.log_prob(u).flatten(1).sum(1))


def test_more_draws_of_the_noise_tighten_the_bound() -> None:
    model = moved(VARIATIONAL["glow"])
    x = data(model, 64)
    one = torch.stack([model.log_prob(x, key=random.key(s)) for s in range(4)]).mean()
    many = model.importance_log_prob(x, 16, key=KEY)
    assert many.shape == (64,) and many.mean() > one
    assert_close(model.importance_log_prob(x, 1, key=KEY), model.log_prob(x, key=random.fold_in(KEY, 0)))
    with pytest.raises(ValueError, match="samples must be at least 1; got 0"):
        model.importance_log_prob(x, 0, key=KEY)
