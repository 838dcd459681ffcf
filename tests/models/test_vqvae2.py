"""The VQ-VAE of two levels: the bottom map is quantised given the top one, and the prior knows both."""

import itertools

import pytest
import torch
from torch import Tensor

from genkern import models, random
from genkern.models.vae.vqvae2 import VQVAE2, Config

TINY = {"dim": 4, "halvings": 1, "hidden": 8, "blocks": 1, "prior_layers": 1, "prior_width": 8, "prior_heads": 2}


def built(config: Config, dtype: torch.dtype = torch.float64) -> VQVAE2:
    torch.manual_seed(0)
    model = VQVAE2(config).to(dtype)
    model.initialize(data(config, 32))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def data(config: Config, n: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, config.levels or 2, (n, *config.shape), generator=generator, dtype=torch.uint8)


def test_the_bound_is_below_the_log_probability_by_summation_over_all_codes():
    model = built(Config((1, 4, 4), 3, codes=2, **TINY)).eval()
    x = data(model.config, 5)
    every = torch.tensor(list(itertools.product(range(2), repeat=5)))
    top, bottom = every[:, :1].view(-1, 1, 1), every[:, 1:].view(-1, 2, 2)
    prior = model.prior.log_prob(model.sequence(top, bottom))
    assert abs(float(prior.exp().sum().detach()) - 1) < 1e-9
    codes = model.top.codes(top), model.bottom.codes(bottom)
    given = torch.stack([-model.nats(row.expand(32, 1, 4, 4), *codes) for row in x])
    assert (model.elbo(x) <= (given + prior).logsumexp(1) + 1e-9).all()
    chosen = [int(torch.where((every == model.sequence(*pair).flatten()).all(1))[0]) for pair in pairs(model, x)]
    torch.testing.assert_close(model.elbo(x), (given + prior)[torch.arange(5), chosen])


def pairs(model: VQVAE2, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    top, bottom = model.encode(x)
    return [(top[i : i + 1], bottom[i : i + 1]) for i in range(len(x))]


def test_the_loss_trains_everything_and_moves_both_codebooks():
    model = built(Config((1, 8, 8), 5, codes=6, **TINY)).train()
    before = [quantizer.codebook.embed.clone() for quantizer in (model.top, model.bottom)]
    model.loss(data(model.config, 8), key=random.key(0)).total.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    after = [quantizer.codebook.embed for quantizer in (model.top, model.bottom)]
    assert not any(torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_a_saved_model_reconstructs_and_samples_the_same(tmp_path):
    model = built(Config((3, 8, 8), 9, codes=6, **TINY), torch.float32).eval()
    x = data(model.config, 4)
    model.save(tmp_path)
    loaded = models.load(tmp_path)
    assert torch.equal(loaded.reconstruct(x), model.reconstruct(x)) and loaded.capabilities == {"elbo", "reconstruct"}
    samples = model.sample(4, key=random.key(3))
    assert samples.shape == (4, 3, 8, 8) and samples.dtype == torch.uint8 and int(samples.max()) < 9
    assert torch.equal(loaded.sample(4, key=random.key(3)), samples)
    assert torch.equal(model.sample(1, key=random.key(3), sample_offset=3), samples[3:])


def test_pictures_are_pairs_of_data_and_reconstruction():
    model = built(Config((1, 8, 8), 5, codes=6, **TINY), torch.float32).eval()
    x = data(model.config, 40)
    pairs = model.pictures(x, key=random.key(0))["reconstructions"]
    assert torch.equal(pairs[::2], x[:32]) and torch.equal(pairs[1::2], model.reconstruct(x[:32]))


@pytest.mark.parametrize("preset", ["vqvae2-small", "vqvae2-mnist", "vqvae2"])
def test_presets_have_a_loss_and_a_reconstruction(preset):
    torch.manual_seed(0)
    model = models.build(preset, hidden=8, prior_width=16, prior_layers=1)
    x = data(model.config, 2)
    model.initialize(x)
    assert model.loss(x, key=random.key(0)).total.isfinite()
    assert model.eval().reconstruct(x).shape == x.shape and model.elbo(x).isfinite().all()


def test_errors_name_the_field():
    with pytest.raises(ValueError, match="VQVAE2: shape must be 1 or 3 channels of sides divisible by 8"):
        VQVAE2(Config((1, 12, 12)))
