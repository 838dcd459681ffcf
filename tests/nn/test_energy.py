"""Chains, the replay buffer and the networks of energy models."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from genkern import random
from genkern.nn import (
    ConvEnergy,
    ReplayBuffer,
    ResidualEnergy,
    annealed_langevin,
    langevin,
    noise_levels,
    score_of,
    tuned_step,
)
from genkern.ops import langevin_step
from genkern.testing import assert_same_bits

KEY = random.key(5)
MODES, WEIGHTS = torch.tensor([[5.0, 5.0], [-5.0, -5.0]]), torch.tensor([0.8, 0.2])


@pytest.fixture(autouse=True)
def _same_inputs_every_time():
    torch.manual_seed(0)


def mixture_score(x: Tensor, sigma: Tensor) -> Tensor:
    """Of two Gaussians of unit variance, under noise: exact."""
    variance = 1 + sigma[:, None] ** 2
    difference = MODES - x[:, None]  # [B, 2, D]
    logits = WEIGHTS.log() - difference.square().sum(2) / (2 * variance)
    return (logits.softmax(1)[:, :, None] * difference).sum(1) / variance


def test_annealing_finds_the_weights_of_two_modes_and_a_plain_chain_does_not():
    """Song & Ermon 2019, figure 3: starts spread evenly over the square stay in the mode that they are nearest to."""
    x = 16 * random.uniform(KEY, (2000, 2)) - 8
    plain = langevin(lambda x: mixture_score(x, x.new_zeros(len(x))), x, steps=300, step=0.05, key=KEY)
    annealed = annealed_langevin(mixture_score, x, noise_levels(20.0, 0.5, 20), steps=60, step=0.02, key=KEY)
    share = [float((y.sum(1) > 0).double().mean()) for y in (plain, annealed)]
    assert abs(share[0] - 0.5) < 0.04 and abs(share[1] - 0.8) < 0.04
    assert_close(annealed[annealed.sum(1) > 0].mean(0), MODES[0], atol=0.1, rtol=0)


def test_annealed_steps_are_those_of_the_algorithm():
    x, sigmas, step, steps = torch.randn(3, 2), [2.0, 1.0, 0.5], 0.01, 2
    wanted = x
    for i, sigma in enumerate(sigmas):
        a = step * sigma**2 / 0.25
        for t in range(steps):
            z = random.normal(random.fold_in(KEY, i * steps + t), (3, 2))
            wanted = wanted + a * mixture_score(wanted, torch.full((3,), sigma)) + math.sqrt(2 * a) * z
    options = {"steps": steps, "step": step, "key": KEY}
    assert_close(annealed_langevin(mixture_score, x, sigmas, denoise=False, **options), wanted)
    denoised = wanted + 0.25 * mixture_score(wanted, torch.full((3,), 0.5))
    assert_close(annealed_langevin(mixture_score, x, torch.tensor(sigmas), **options), denoised)


@pytest.mark.parametrize("order", ["noise-last", "noise-first"])
def test_a_chain_is_its_steps_and_does_not_depend_on_the_batch(order):
    energy = ConvEnergy((1, 4, 4), channels=(4, 8))
    x = random.uniform(KEY, (5, 1, 4, 4))

    def score(x: Tensor) -> Tensor:
        return score_of(lambda x: energy(x)[:, 0], x)

    options = {
        "steps": 4,
        "step": 0.5,
        "scale": 0.1,
        "key": KEY,
        "clamp": (0.0, 1.0),
        "clamp_grad": 0.02,
        "order": order,
    }
    whole = langevin(score, x, **options)
    assert not whole.requires_grad and whole.min() >= 0 and whole.max() <= 1
    wanted = x
    for k in range(4):
        z = 0.1 * random.normal(random.fold_in(KEY, k), x.shape)
        if order == "noise-first":
            wanted = wanted + z
            wanted = (wanted + 0.5 * score(wanted).clamp(-0.02, 0.02)).clamp(0, 1)
        else:
            wanted = (wanted + 0.5 * score(wanted).clamp(-0.02, 0.02) + z).clamp(0, 1)
    assert_close(whole, wanted)
    part = langevin(score, x[2:4], sample_offset=2, **options)
    assert_close(part, whole[2:4], rtol=1e-5, atol=1e-6)  # convolutions of other batches round otherwise

    def elementwise(x: Tensor) -> Tensor:
        return -x

    assert_same_bits(
        langevin(elementwise, x[2:4], sample_offset=2, **options), langevin(elementwise, x, **options)[2:4]
    )


def test_a_tuned_step_brings_a_level_nearest_to_its_variance():
    """Of data at a point, whose score is -x / sigma^2: every other step ends further away, and none reaches it."""
    sigmas, steps = noise_levels(5.0, 0.5, 12), 5
    tuned = tuned_step(sigmas, steps)

    def excess(factor: float) -> float:
        """The variance at the end of the second level, by chains that come from the first, over its own, less one."""
        x = sigmas[0] * random.normal(KEY, (50000, 4))
        step = factor * tuned * (sigmas[1] / sigmas[-1]) ** 2
        options = {"steps": steps, "step": step, "key": random.fold_in(KEY, 1), "denoise": False}
        x = annealed_langevin(lambda x, sigma: -x / sigma[:, None] ** 2, x, sigmas[1:2], **options)
        return float(x.var()) / sigmas[1] ** 2 - 1

    assert 0 < excess(1.0) < min(excess(0.7), excess(1.4))


@pytest.mark.parametrize(
    "network", [ConvEnergy((1, 5, 4), channels=(3, 4)), ResidualEnergy((2, 4, 4), channels=(3, 4), blocks=1)]
)
def test_a_loss_of_scores_has_gradients_through_the_score(network):
    """Denoising score matching of a network's energy: the gradient of the loss passes through that of the input."""
    network = network.double().eval()
    channels = 1 if isinstance(network, ConvEnergy) else 2
    x = torch.randn(3, channels, *((5, 4) if channels == 1 else (4, 4)), dtype=torch.float64)
    z = torch.randn_like(x)
    parameters = dict(network.named_parameters())
    name = next(name for name in parameters if "head" not in name and parameters[name].dim() == 4)

    def loss(weight: Tensor) -> Tensor:
        def energy(v: Tensor) -> Tensor:
            return torch.func.functional_call(network, {**parameters, name: weight}, (v,))[:, 0]

        noisy = (x + 0.3 * z).requires_grad_()
        return 0.5 * (0.3 * score_of(energy, noisy, create_graph=True) + z).square().sum()

    assert torch.autograd.gradcheck(loss, parameters[name].detach().clone().requires_grad_(), fast_mode=True)


def test_score_matching_through_a_step_has_the_derivative_of_the_definition():
    """A loss at the end of a step, whose score has its own graph: second derivatives pass the op."""
    energy = nn.Sequential(nn.Linear(3, 4), nn.SiLU(), nn.Linear(4, 1)).double()
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    grads = []
    for impl in ("auto", "torch"):
        score = score_of(lambda v: energy(v)[:, 0], x, create_graph=True)
        y = langevin_step(x, score, 0.3, key=KEY, clamp=(-1.0, 1.0), impl=impl)
        grads.append(torch.autograd.grad(y.square().sum(), [x, energy[0].weight], create_graph=True))
    for a, b in zip(*grads, strict=True):
        assert_close(a, b)


class TestReplayBuffer:
    def buffer(self, **options) -> ReplayBuffer:
        return ReplayBuffer(50, (2, 3), **{"low": -1.0, "high": 1.0, **options})

    def test_slots_are_distinct_and_states_come_back(self):
        buffer = self.buffer(reinit=0.0)
        before = buffer.states.clone()
        x, slots = buffer.draw(20, key=KEY)
        assert len(slots.unique()) == 20 and torch.equal(x, before[slots])
        buffer.store(x + 1, slots)
        assert torch.equal(buffer.states[slots], before[slots] + 1)
        kept = torch.ones(50, dtype=torch.bool)
        kept[slots] = False
        assert torch.equal(buffer.states[kept], before[kept])

    def test_a_share_begins_anew_within_the_bounds(self):
        buffer = ReplayBuffer(4000, (3,), reinit=0.3, low=2.0, high=3.0)
        buffer.states.zero_()
        x, _ = buffer.draw(4000, key=KEY)
        fresh = (x != 0).any(1)
        assert abs(float(fresh.double().mean()) - 0.3) < 0.03
        assert x[fresh].min() > 2 and x[fresh].max() < 3 and (x[~fresh] == 0).all()
        assert all((self.buffer(reinit=1.0).draw(9, key=KEY)[0] != self.buffer().states[:9]).flatten())

    def test_parts_of_a_batch_draw_what_the_whole_draws(self):
        buffer = self.buffer(reinit=0.5)
        whole, slots = buffer.draw(12, key=KEY)
        for first, last in ((0, 5), (5, 12)):
            x, some = buffer.draw(last - first, key=KEY, sample_offset=first)
            assert_same_bits([x, some], [whole[first:last], slots[first:last]])

    def test_a_run_that_is_resumed_goes_on_with_the_same_bits(self):
        def go_on(buffer: ReplayBuffer, first: int, last: int) -> Tensor:
            for step in range(first, last):
                key = random.fold_in(KEY, step)
                x, slots = buffer.draw(8, key=key)
                buffer.store(langevin(lambda x: -x, x, steps=3, step=0.1, key=key), slots)
            return buffer.states

        whole, stopped, resumed = self.buffer(), self.buffer(), self.buffer()
        go_on(stopped, 0, 4)
        resumed.load_state_dict(stopped.state_dict())
        assert_same_bits(go_on(resumed, 4, 9), go_on(whole, 0, 9))

    def test_wrong_sizes_are_said(self):
        with pytest.raises(ValueError, match="n . sample_offset must be at most 50; got 51"):
            self.buffer().draw(50, key=KEY, sample_offset=1)
        with pytest.raises(ValueError, match="ReplayBuffer: wanted size >= 1"):
            ReplayBuffer(0, (2,))


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 5)])
def test_networks_take_each_picture_by_itself(shape):
    for network in (
        ConvEnergy(shape, 4, (8, 16)),
        ResidualEnergy(shape, 4, (4, 8), 1),
        ResidualEnergy(shape, 4, (4, 8), 1, spectral=False, pool="mean"),
    ):
        x = torch.randn(3, *shape)
        out = network.eval()(x)
        assert out.shape == (3, 4)
        assert_close(network(x[1:2]), out[1:2], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="ConvEnergy: shape must be"):
        ConvEnergy((3,))
