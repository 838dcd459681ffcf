"""The VQ-VAE: codes in use, a bound that is a bound, samples that follow from the key."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from genkern import models, random
from genkern.models.vae.vqvae import VQVAE, Config

TINY = Config(
    (1, 4, 4), 3, codes=6, dim=4, halvings=1, hidden=8, blocks=1, prior_layers=1, prior_width=8, prior_heads=2
)


def built(config: Config = TINY, dtype: torch.dtype = torch.float64) -> VQVAE:
    torch.manual_seed(0)
    model = VQVAE(config).to(dtype)
    model.initialize(data(config, 32))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def data(config: Config, n: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, config.levels or 2, (n, *config.shape), generator=generator, dtype=torch.uint8)


def test_the_bound_is_that_of_a_distribution_and_below_its_log_probability():
    """All pictures of 2x2 pixels and 3 levels, all maps of 6 codes: p(x) by summation."""
    config = Config((1, 2, 2), 3, codes=6, dim=4, halvings=1, hidden=8, blocks=1, prior_layers=1, prior_width=8,
                    prior_heads=2)  # fmt: skip
    model = built(config).eval()
    x = torch.tensor(list(itertools.product(range(3), repeat=4)), dtype=torch.uint8).view(-1, 1, 2, 2)
    codes = torch.arange(6).view(6, 1, 1)
    prior = model.prior.log_prob(codes.unsqueeze(1))
    given = torch.stack([-model.nats(x, model.quantizer.codes(code[None].expand(81, 1, 1))) for code in codes])
    log_prob = (given + prior[:, None]).logsumexp(0)
    assert abs(float(log_prob.exp().sum().detach()) - 1) < 1e-9
    bound = model.elbo(x)
    assert (bound <= log_prob + 1e-9).all()
    chosen = model.encode(x).flatten()
    torch.testing.assert_close(bound, given[chosen, torch.arange(81)] + prior[chosen])


def test_the_loss_trains_both_and_the_prior_leaves_the_encoder_alone():
    model, x = built().train(), data(TINY, 8)
    loss = model.loss(x, key=random.key(0))
    assert loss.total.item() == pytest.approx(sum(float(loss.terms[n]) for n in ("pixels", "codes", "commitment")))
    loss.total.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    codes = model.encode(x)
    grads = torch.autograd.grad(model.prior.log_prob(codes.unsqueeze(1)).sum(), list(model.encoder.parameters()),
                                allow_unused=True)  # fmt: skip
    assert all(grad is None for grad in grads)


def test_evaluation_leaves_the_codebook_alone_and_training_moves_it():
    model, x = built(), data(TINY, 8)
    before = model.quantizer.codebook.embed.clone()
    model.train(), model.elbo(x), model.reconstruct(x), model.encode(x)
    assert torch.equal(model.quantizer.codebook.embed, before)
    model.loss(x, key=random.key(0))
    assert not torch.equal(model.quantizer.codebook.embed, before)


def test_a_saved_model_reconstructs_and_samples_the_same(tmp_path):
    model, x = built(dtype=torch.float32).eval(), data(TINY, 8)
    model.save(tmp_path)
    loaded = models.load(tmp_path)
    assert torch.equal(loaded.reconstruct(x), model.reconstruct(x)) and loaded.capabilities == {"elbo", "reconstruct"}
    samples = model.sample(6, key=random.key(3))
    assert samples.shape == (6, 1, 4, 4) and samples.dtype == torch.uint8 and int(samples.max()) < 3
    assert torch.equal(loaded.sample(6, key=random.key(3)), samples)
    assert torch.equal(model.sample(2, key=random.key(3), sample_offset=4), samples[4:])


def test_pixels_are_drawn_from_the_likelihood_that_the_bound_is_of():
    model, codes = built(dtype=torch.float32).eval(), torch.arange(6).repeat_interleave(4000)[:, None, None]
    codes = codes.expand(-1, 2, 2)
    drawn, likeliest = model.decode(codes, key=random.key(1)), model.decode(codes)
    assert torch.equal(model.decode(codes, key=random.key(1), temperature=0.0), likeliest)
    params = model.decoder(model.quantizer.codes(codes[::4000]))  # of each code, alone
    for value in range(3):
        share = (drawn[:, 0, 1, 1] == value).view(6, 4000).float().mean(1)
        here = model.likelihood.log_prob(params[:, :, 1:2, 1:2], torch.full((6, 1, 1, 1), value, dtype=torch.uint8))
        assert (share - here.exp()).abs().max() < 5 * 0.5 / 4000**0.5


def test_a_few_steps_bring_the_loss_down_and_keep_most_codes_in_use():
    config = Config(
        (1, 8, 8), 17, codes=16, dim=8, halvings=1, hidden=16, blocks=1, prior_layers=1, prior_width=16, decay=0.9
    )
    torch.manual_seed(0)
    model = VQVAE(config).train()
    rows = torch.arange(8)
    shift = torch.arange(64).view(-1, 1, 1)
    ramp = rows[:, None] * (shift % 3) + rows * (shift // 3 % 3)  # of nine slopes, up to 28
    x = (ramp * 8 // 28 + shift % 9).to(torch.uint8).unsqueeze(1)
    model.initialize(x)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for step in range(150):
        loss = model.loss(x, key=random.fold_in(random.key(0), step))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        losses.append(float(loss.total.detach()))
    assert losses[-1] < 0.6 * losses[0] and losses[-1] < math.log2(17)
    assert float(loss.terms["perplexity"]) > 0.5 * 16


def test_pictures_are_pairs_of_data_and_reconstruction():
    model, x = built(dtype=torch.float32).eval(), data(TINY, 40)
    pairs = model.pictures(x, key=random.key(0))["reconstructions"]
    assert torch.equal(pairs[::2], x[:32]) and torch.equal(pairs[1::2], model.reconstruct(x[:32]))


@pytest.mark.parametrize("preset", ["vqvae-small", "vqvae-mnist", "vqvae"])
def test_presets_have_a_loss_and_a_reconstruction(preset):
    torch.manual_seed(0)
    model = models.build(preset, hidden=8, prior_width=16, prior_layers=1)
    x = data(model.config, 2)
    model.initialize(x)
    assert model.loss(x, key=random.key(0)).total.isfinite()
    assert model.eval().reconstruct(x).shape == x.shape and model.elbo(x).isfinite().all()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"shape": (1, 6, 6)}, "VQVAE: shape must be 1 or 3 channels of sides divisible by 4"),
        ({"shape": (2, 8, 8)}, "VQVAE: shape must be 1 or 3 channels"),
        ({"levels": None}, "VQVAE: levels must be 2 or more; got None"),
    ],
)
def test_errors_name_the_field(options, text):
    with pytest.raises(ValueError, match=text):
        VQVAE(Config(**{"shape": (1, 8, 8), **options}))
