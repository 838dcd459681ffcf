"""Energy-based models: their losses, chains and memory; what a short training of one shows."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from genkern import models, random
from genkern.experiments import data, energies
from genkern.models import Batch
from genkern.models.energy import flow_contrastive, igebm, jem, ncsn
from genkern.testing import assert_same_bits

SMALL = {"shape": (1, 4, 4), "levels": 17}
CHAIN = {"network": "conv", "channels": (4, 8), "steps": 3, "buffer": 20}
FLOW = {"network": "conv", "channels": (4, 8), "flow_options": {"scales": 2, "steps": 1, "hidden": 4}}
UNET = {"channels": 16, "multipliers": (1,), "blocks": 1, "attention": (), "dropout": 0.0}
TINY = {
    "igebm": lambda: igebm.IGEBM(igebm.Config(**SMALL, **CHAIN)),
    "igebm residual": lambda: igebm.IGEBM(igebm.Config(**SMALL, channels=(4, 8), blocks=1, steps=2, buffer=20)),
    "igebm vector": lambda: igebm.IGEBM(
        igebm.Config((3,), None, extent=2.0, network="mlp", channels=(8,), steps=3, step=0.1, buffer=20)
    ),
    "jem": lambda: jem.JEM(jem.Config(**SMALL, **CHAIN, classes=3, regularization=0.01)),
    "flow contrastive": lambda: flow_contrastive.FlowContrastive(flow_contrastive.Config(**SMALL, **FLOW)),
    "flow contrastive vector": lambda: flow_contrastive.FlowContrastive(
        flow_contrastive.Config(
            (3,), None, network="mlp", channels=(8,), flow="nsf", flow_options={"steps": 2, "hidden": 8, "blocks": 1},
            flow_update="likelihood", tilted=True,
        )
    ),
    "ncsn": lambda: ncsn.NCSN(ncsn.Config(**SMALL, **UNET, sigma_max=2.0, sigma_min=0.1, noise_levels=4)),
    "ncsn by class": lambda: ncsn.NCSN(
        ncsn.Config(**SMALL, **UNET, classes=3, sigma_max=2.0, sigma_min=0.1, noise_levels=4, steps=1)
    ),
}  # fmt: skip
KEY = random.key(9)


@pytest.fixture(autouse=True)
def _same_inputs_every_time():
    torch.manual_seed(0)


def made(name: str):
    torch.manual_seed(0)
    model = TINY[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    model.initialize(batch(model), key=KEY)
    return model


def batch(model, n: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(3)
    shape = (n, *model.config.shape)
    x = torch.randn(shape, generator=generator)
    if model.config.levels is not None:
        x = torch.randint(0, model.config.levels, shape, generator=generator, dtype=torch.uint8)
    return Batch(x, torch.arange(n) % 3)


@pytest.mark.parametrize("name", TINY)
def test_a_loss_trains_every_weight_and_follows_from_its_key(name):
    runs = []
    for _ in range(2):
        model = made(name).train()
        loss = model.loss(batch(model), key=KEY)
        loss.total.backward()
        assert loss.total.isfinite() and all(not term.requires_grad for term in loss.terms.values())
        idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert not [name for name in idle if "dequantization" not in name]
        runs.append([loss.total.detach(), *(p.grad for p in model.parameters())])
    assert_same_bits(*runs)
    with torch.no_grad():
        assert_same_bits(model.eval().loss(batch(model), key=KEY).total, model.loss(batch(model), key=KEY).total)


@pytest.mark.parametrize("name", TINY)
def test_samples_are_pictures_that_do_not_depend_on_their_batch(name):
    model = made(name).eval()
    with torch.no_grad():
        whole = model.sample(6, key=KEY)
        part = model.sample(2, key=KEY, sample_offset=3, **({"y": torch.arange(3, 5) % 3} if "class" in name else {}))
    if model.config.levels is None:
        assert_close(part, whole[3:5], rtol=1e-4, atol=1e-4)
        return
    assert whole.dtype == torch.uint8 and whole.shape == (6, 1, 4, 4) and whole.max() < 17
    assert (part.int() - whole[3:5].int()).abs().max() <= 1  # convolutions of other batches round otherwise


@pytest.mark.parametrize("name", TINY)
def test_a_saved_model_comes_back_with_its_chains(name, tmp_path):
    model = made(name).train()
    model.loss(batch(model), key=KEY)
    model.save(tmp_path)
    loaded = models.load(tmp_path)
    assert type(loaded) is type(model) and loaded.config == model.config
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)


@pytest.mark.parametrize("name", ["igebm", "jem"])
def test_training_that_is_resumed_has_the_same_bits(name):
    def trained(model, first: int, last: int) -> dict[str, Tensor]:
        model.train()
        for step in range(first, last):
            loss = model.loss(batch(model), key=random.fold_in(KEY, step))
            grads = torch.autograd.grad(loss.total, list(model.parameters()))
            with torch.no_grad():
                for parameter, grad in zip(model.parameters(), grads, strict=True):
                    parameter -= 0.01 * grad
        return model.state_dict()

    whole, stopped, resumed = made(name), made(name), made(name)
    resumed.load_state_dict({key: value.clone() for key, value in trained(stopped, 0, 2).items()})
    assert_same_bits(list(trained(resumed, 2, 4).values()), list(trained(whole, 0, 4).values()))


def test_chains_of_vectors_begin_and_stay_within_the_extent():
    model = made("igebm vector")
    assert model.replay.states.abs().max() <= 2 and model.replay.states.min() < -1
    far = model.chain(1.9 * model.replay.states.sign(), key=KEY, steps=50, temperature=1e4)
    assert far.abs().max() == 2.0


@pytest.mark.parametrize("name", ["igebm", "igebm vector", "jem"])
def test_a_chain_walks_down_in_energy_and_leaves_no_graph(name):
    model = made(name)
    v = model.replay.states[:8].clone()
    lower = model.chain(v, key=KEY, steps=20, temperature=0.0)
    assert not lower.requires_grad and all(p.grad is None for p in model.parameters())
    with torch.no_grad():
        assert model.energy_at(lower).mean() < model.energy_at(v).mean()


def test_igebm_contrasts_data_with_the_states_of_the_buffer():
    model = made("igebm").eval()
    x = batch(model).x
    data = model.scale(x, key=random.fold_in(KEY, 0))
    assert data.min() >= 0 and data.max() <= 1 and torch.equal(model.unscale(data), x)
    low, high = model.energy_at(data), model.energy_at(model.resting(6, key=KEY))
    wanted = low.mean() - high.mean() + (low.square().mean() + high.square().mean())
    assert_close(model.loss(x, key=KEY).total, wanted)
    before = model.replay.states.clone()
    model.train().loss(x, key=KEY)
    assert not torch.equal(model.replay.states, before) and model.training


def test_jem_is_a_classifier_and_an_energy():
    model = made("jem").eval()
    x, y = batch(model)
    logits = model.logits(x)
    assert_close(model.energy(x), -logits.exp().sum(1).log())
    assert torch.equal(model.classify(x), logits.argmax(1))
    without, given = model.loss(x, key=KEY), model.loss(Batch(x, y), key=KEY)
    assert_close(given.total - without.total, given.terms["cross_entropy"])
    noise = random.normal(random.fold_in(KEY, 1), x.shape)
    noisy = model.scale(x, key=random.fold_in(KEY, 0)) + 0.03 * noise
    assert_close(given.terms["cross_entropy"], cross_entropy(model.network(noisy), y).detach())


@pytest.mark.parametrize("tilted", [False, True])
def test_an_energy_that_is_the_flows_cannot_tell_data_from_samples(tilted):
    model = made("flow contrastive vector").eval()
    model.config = dataclasses.replace(model.config, tilted=tilted)
    model.network = Constant(0.0) if tilted else AsFlow(model)
    assert float(model.loss(batch(model), key=KEY).total.detach()) == pytest.approx(2 * math.log(2), abs=1e-4)
    v, log_q = model.flow_sample(5, key=KEY)
    assert_close(model.flow_log_prob(v), log_q, rtol=1e-4, atol=1e-4)
    assert_close(model.energy_at(v), -log_q, rtol=1e-4, atol=1e-4)


def test_a_tilted_flow_draws_what_its_energy_prefers():
    """The energy of a half space: proposals there are e^5 times as likely to be kept."""
    model = made("flow contrastive vector").eval()
    model.network = HalfSpace()
    drawn, kept = model.sample(400, key=KEY, proposals=1), model.sample(400, key=KEY, proposals=16)
    assert (drawn[:, 0] > 0).double().mean() < 0.8 < 0.95 < (kept[:, 0] > 0).double().mean()


def test_an_adversarial_flow_ascends_what_the_energy_descends():
    model = made("flow contrastive").train()
    x = batch(model).x

    def grads(update: str) -> dict[str, Tensor]:
        object.__setattr__(model.config, "flow_update", update)
        total = model.loss(x, key=KEY).total
        names, parameters = zip(*model.named_parameters(), strict=True)
        found = torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True)
        return dict(zip(names, found, strict=True))

    still, moving = grads("none"), grads("adversarial")
    for name, grad in still.items():
        if name.startswith("network."):
            assert_close(moving[name], grad)
        else:
            assert not grad.any()
    assert any(moving[name].any() for name in moving if name.startswith("flow."))


class Constant(nn.Module):
    def __init__(self, value: float):
        super().__init__()
        self.value = value

    def forward(self, v: Tensor) -> Tensor:
        return torch.full((len(v), 1), self.value)


class AsFlow(nn.Module):
    """The energy of the flow, in nats a dimension."""

    def __init__(self, model):
        super().__init__()
        self.model = [model]

    def forward(self, v: Tensor) -> Tensor:
        return -self.model[0].flow_log_prob(v)[:, None] / 3


class HalfSpace(nn.Module):
    def forward(self, v: Tensor) -> Tensor:
        return torch.where(v[:, :1] > 0, 0.0, 5.0)


class Exact(nn.Module):
    """The noise to expect in N(0, v) data under noise, from what NCSN hands to its network."""

    def __init__(self, variance: float):
        super().__init__()
        self.variance, self.idle = variance, nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        sigma = (4 * t).exp().reshape(-1, *[1] * (x.dim() - 1))
        return x * (1 + sigma**2).sqrt() * sigma / (self.variance + sigma**2)


def test_ncsn_with_the_exact_score_samples_and_scores_gaussian_data():
    model = ncsn.NCSN(ncsn.Config(shape=(20,), levels=None, network="mlp", hidden=16, sigma_max=5.0, sigma_min=0.05,
                                  noise_levels=30))  # fmt: skip
    model.network = Exact(0.6)
    assert float(model.sample(1000, key=KEY, steps=40).var()) == pytest.approx(0.6, rel=0.06)
    x, sigma = torch.randn(4, 20), torch.tensor([0.1, 0.5, 1.0, 3.0])
    assert_close(model.score(x, sigma), -x / (0.6 + sigma[:, None] ** 2))
    # the least loss is half the variance of the noise given the noisy data
    x = 0.6**0.5 * torch.randn(4000, 20)
    levels = model.sigmas[(30 * random.uniform(random.fold_in(KEY, 0), (4000, 1))[:, 0]).long()]
    least = float((0.5 * 0.6 / (0.6 + levels.square())).mean())
    assert float(model.loss(x, key=KEY).total.detach()) == pytest.approx(least, rel=0.02)


def test_a_short_training_of_jem_classifies_and_knows_noise_from_digits():
    """150 steps: accuracy, energies of samples amid those of data, noise above them."""
    digits = data.load("digits")
    torch.manual_seed(0)
    model = jem.JEM(jem.Config((1, 8, 8), 17, network="conv", channels=(16, 32), steps=10, buffer=500))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(150):
        rows = torch.arange(64 * step, 64 * step + 64) % len(digits.train)
        loss = model.loss(Batch(digits.train[rows], digits.labels["train"][rows]), key=random.fold_in(KEY, step))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    found = energies.report(model.eval(), digits, key=KEY)
    assert found["accuracy"] > 0.9 and found["overlap"] > 0.2 and found["auroc"]["uniform noise"] > 0.95


def test_wrong_configs_are_said():
    with pytest.raises(ValueError, match="network must be 'residual' or 'conv'"):
        igebm.IGEBM(igebm.Config(network="mlp"))
    with pytest.raises(ValueError, match="flow_update must be one of"):
        flow_contrastive.FlowContrastive(flow_contrastive.Config(flow_update="both"))
    with pytest.raises(TypeError, match="x must be integer pixels"):
        made("igebm").energy(torch.zeros(1, 1, 4, 4))
    with pytest.raises(ValueError, match="start must be 'buffer' or 'noise'"):
        made("jem").sample(2, key=KEY, start="data")
