"""Adversarial autoencoders: priors as they are meant, and two players who leave each other alone."""

import math

import pytest
import torch

from genkern import models, random
from genkern.models.vae import aae

KEY = random.key(3)
TINY = aae.Config((1, 4, 4), 5, 2, "swiss-roll", 10, (4,), 8, 6, "categorical")


def tiny(**changes: object) -> aae.AAE:
    torch.manual_seed(0)
    return aae.AAE(aae.Config(**{**vars(TINY), **changes}))


def data(n: int = 6) -> torch.Tensor:
    return torch.randint(0, 5, (n, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_players_have_all_parameters_and_none_in_common() -> None:
    model = tiny()
    players = model.players()
    owned = [id(parameter) for player in players.values() for parameter in player.parameters]
    assert len(set(owned)) == len(owned) and set(owned) == {id(parameter) for parameter in model.parameters()}


def test_each_player_moves_what_it_owns() -> None:
    model = tiny()
    for name, player in model.players().items():
        loss = model.loss_of(name, data(), key=KEY).total
        found = torch.autograd.grad(loss, player.parameters, allow_unused=True)
        assert all(grad is not None and grad.isfinite().all() for grad in found), name
    encoder = list(model.encoder.parameters())
    to_encoder = torch.autograd.grad(
        model.loss_of("discriminator", data(), key=KEY).total, [*model.critic.parameters(), *encoder], allow_unused=True
    )
    assert all(grad is None for grad in to_encoder[-len(encoder) :])


def test_the_mixture_lies_around_a_circle_and_the_swiss_roll_along_a_spiral() -> None:
    z = aae.mixture(8000, 10, key=KEY)
    assert abs(float(z.mean())) < 0.05 and abs(float(z.norm(dim=1).mean()) - 2) < 0.05
    angle = torch.atan2(z[:, 1], z[:, 0])[z.norm(dim=1) > 1]
    off = (angle / (2 * math.pi / 10) - (angle / (2 * math.pi / 10)).round()).abs()
    assert float(off.mean()) < 0.1  # even angles would have 0.25
    z = aae.swiss_roll(8000, key=KEY)
    turn = z.norm(dim=1) / 2.5
    angle = torch.remainder(torch.atan2(z[:, 1], z[:, 0]) - 4 * math.pi * turn + math.pi, 2 * math.pi) - math.pi
    assert float(angle[turn > 0.2].abs().mean()) < 0.3  # even angles would have 1.57
    for name in aae.PRIORS:
        whole = tiny(prior=name).draw_prior(9, key=KEY)
        assert whole.shape == (9, 2)
        assert torch.equal(tiny(prior=name).draw_prior(4, key=KEY, sample_offset=5), whole[5:])


def test_samples_and_codes_are_pictures_and_numbers() -> None:
    model = tiny().eval()
    x = model.sample(5, key=KEY)
    assert x.shape == (5, 1, 4, 4) and x.dtype == torch.uint8 and int(x.max()) < 5
    assert torch.equal(model.sample(2, key=KEY, sample_offset=3), x[3:])
    assert model.encode(data()).shape == (6, 2) and model.reconstruct(data()).shape == (6, 1, 4, 4)
    assert model.capabilities == {"reconstruct"}
    assert set(model.pictures(data(16), key=KEY)) == {"reconstructions", "interpolation", "codes"}
    assert set(tiny(prior="gaussian", latents=3).pictures(data(16), key=KEY)) == {"reconstructions", "interpolation"}


def test_the_picture_of_codes_has_them_where_they_are() -> None:
    counts = aae.counts_in_the_plane(torch.tensor([[-9.0, 3.99], [0.01, 0.01], [0.01, 0.02], [3.99, -3.99]]))
    assert counts.sum() == 4 and counts[0, 0] == 1 and counts[47, 48] == 2 and counts[95, 95] == 1
    model = tiny().eval()
    density, upon = model.pictures(data(16), key=KEY)["codes"][:, 0]
    assert float(density.max()) == 4 and torch.equal(upon == 4, aae.counts_in_the_plane(model.encode(data(16))) > 0)


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match="prior must be one of .* got 'cube'"):
        tiny(prior="cube")
    with pytest.raises(ValueError, match="latents must be 2 for the prior 'mixture'; got 3"):
        tiny(prior="mixture", latents=3)
    with pytest.raises(ValueError, match=r"AAE: x must be \['B', 1, 4, 4\]; got \[2, 1, 8, 8\]"):
        tiny().encode(torch.zeros(2, 1, 8, 8))


def test_a_small_model_saves_and_loads_the_same_bits(tmp_path) -> None:
    model = models.build("aae-small-swiss-roll").eval()
    model.save(tmp_path)
    x = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    assert torch.equal(models.load(tmp_path).encode(x), model.encode(x))
