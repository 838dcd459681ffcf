"""Unpaired translation: domains without a pair, players who leave each other alone, walks that follow from keys."""

import pytest
import torch
from torch import Tensor

from genkern import models, random
from genkern.models.energy.unit_ddpm import PRESETS, Config, UnitDDPM

TINY = Config(
    shape=(1, 4, 4), levels=5, channels=8, multipliers=(1, 2), blocks=1, attention=(2,), dropout=0.0,
    timesteps=10, schedule="cosine", translator=4, translator_blocks=1,
)  # fmt: skip


def moved() -> UnitDDPM:
    """A model with parameters of no special values."""
    torch.manual_seed(0)
    model = UnitDDPM(TINY)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model.eval()


def pixels(n: int = 8) -> Tensor:
    return torch.randint(0, 5, (n, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_a_picture_is_only_ever_seen_in_one_domain():
    model, x = moved(), pixels(64)
    seen, domain = model.unpaired(x)
    assert 16 < int(domain.sum()) < 48
    assert torch.equal(seen[domain == 0], x[domain == 0])
    assert torch.equal(seen[domain == 1], 4 - x[domain == 1])
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.unpaired(x[order])[1], domain[order])


def test_players_have_all_parameters_and_none_in_common():
    model = moved()
    owned = [id(parameter) for player in model.players().values() for parameter in player.parameters]
    assert len(owned) == len(set(owned)) and set(owned) == {id(parameter) for parameter in model.parameters()}


@pytest.mark.parametrize("player", ["diffusion", "translators"])
def test_a_loss_reaches_all_that_its_player_has(player):
    model = moved().train()
    for name, side in model.players().items():
        for parameter in side.parameters:
            parameter.requires_grad_(name == player)
    model.loss_of(player, pixels(), key=random.key(0)).total.backward()
    mine = model.players()[player].parameters
    assert all(parameter.grad is not None and bool(parameter.grad.isfinite().all()) for parameter in mine)
    assert all(bool(parameter.grad.any()) for parameter in mine if parameter.numel() > 1)


@pytest.mark.parametrize("player", ["diffusion", "translators"])
def test_the_loss_of_a_shard_is_its_part_of_the_whole(player):
    model, key, x = moved(), random.key(3), pixels(6)
    whole = model.loss_of(player, x, key=key)
    for size in (1, 3):  # alone, every picture leaves one domain empty
        parts = [model.loss_of(player, x[i : i + size], key=key, sample_offset=i) for i in range(0, 6, size)]
        mean = torch.stack([part.total for part in parts]).mean()
        assert torch.allclose(mean, whole.total, rtol=1e-4)


def test_a_translation_is_the_same_whoever_makes_it():
    model, key, x = moved(), random.key(5), pixels(3)
    whole = model.translate(x, to="A", key=key, release=4)
    assert whole.shape == x.shape and whole.dtype == torch.uint8 and int(whole.max()) < 5
    alone = model.translate(x[2:], to="A", key=key, release=4, sample_offset=2)
    assert (alone[0].int() - whole[2].int()).abs().amax() <= 1  # rounding of the network's sums
    assert not torch.equal(model.translate(x, to="A", key=random.key(6), release=4), whole)


def test_a_walk_without_release_ends_with_the_source_and_an_early_one_moves_it():
    """What the source is when the walk ends: noised as at the first step, or denoised from the release on."""
    model, key = moved(), random.key(2)
    source, noise = torch.zeros(2, 1, 4, 4), random.normal(key, (2, 1, 4, 4))
    _, kept = model.walk(noise, source, 1, key=key, release=0)
    assert float(kept.std() / model.sigma[0]) == pytest.approx(1, abs=0.4)
    _, released = model.walk(noise, source, 1, key=key, release=9)
    assert not torch.equal(released, kept)


class Known(UnitDDPM):
    """Its denoisers know what the picture of their own domain is."""

    truth: Tensor  # in [-1, 1]

    def denoised(self, domain: Tensor, x_t: Tensor, other: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (table[t][:, None, None, None] for table in (self.alpha, self.sigma))
        return (x_t - alpha * self.truth) / sigma


def test_a_walk_whose_denoiser_knows_the_counterpart_ends_at_it():
    model, x = Known(TINY), pixels(5)
    for to, source in (("B", x), ("A", model.counterpart(x))):
        target = model.counterpart(source)
        model.truth = model.scale(target)
        assert torch.equal(model.translate(source, to=to, key=random.key(0), temperature=0.0), target)


def test_samples_of_both_domains_come_from_one_walk():
    model, key = moved(), random.key(7)
    a, b = model.sample_pairs(3, key=key)
    assert torch.equal(model.sample(3, key=key), a) and a.shape == b.shape == (3, 1, 4, 4)
    assert torch.equal(model.sample(3, key=key), a) and not torch.equal(a, b)


def test_weights_are_saved_and_loaded_bit_for_bit(tmp_path):
    model, key, x = moved(), random.key(0), pixels()
    model.save(tmp_path)
    again = models.load(tmp_path)
    assert again.config == model.config
    assert torch.equal(again.loss(x, key=key).total, model.loss(x, key=key).total)


def test_every_preset_is_in_the_registry():
    assert PRESETS.items() <= {name: preset.config for name, preset in models.presets().items()}.items()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"levels": None}, "integer pixels"), ({"classes": 3}, "classes")],
)
def test_a_config_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        models.build("unit-ddpm-small", **options)


def test_a_domain_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="to must be one of"):
        moved().translate(pixels(), to="C", key=random.key(0))
