"""Sparse Transformer: causal, the same sample with and without a cache, and distribution augmentation."""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from genkern import models, random
from genkern.experiments.data import digits
from genkern.models.autoregressive import distaug, sparse_transformer
from genkern.models.autoregressive.distaug import DistAug
from genkern.nn import check_causality

KEY = random.key(3)
SMALL = dict(layers=2, width=8, heads=2, dropout=0.0)
TINY = {
    "strided": sparse_transformer.Config((1, 4, 5), 17, **SMALL),
    "fixed": sparse_transformer.Config((1, 4, 5), 17, attention="fixed", summaries=2, **SMALL),
    "dense by class": sparse_transformer.Config((1, 4, 3), 17, classes=3, attention="dense", **SMALL),
    "strided rgb": sparse_transformer.Config((3, 3, 4), 5, **SMALL),
    "augmented": sparse_transformer.Config(
        (3, 4, 4), 5, augmentations=distaug.TYPES, unaugmented=0.25, move_positions=True, **SMALL
    ),
}


def moved(name: str, **fields) -> sparse_transformer.SparseTransformer:
    """The model with parameters of no special values, in float64 and evaluation mode."""
    torch.manual_seed(0)
    config = sparse_transformer.Config(**{**vars(TINY[name]), **fields})
    model = sparse_transformer.SparseTransformer(config).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model.eval()


def data(model: sparse_transformer.SparseTransformer, n: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, model.config.levels, (n, *model.config.shape), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("name", TINY)
def test_nothing_leaks_and_every_sub_pixel_before_is_seen(name):
    report = check_causality(moved(name))
    assert report.leaks == []
    assert report.unseen == []


@pytest.mark.parametrize("name", sparse_transformer.PRESETS)
def test_no_preset_leaks(name):
    torch.manual_seed(0)
    small = "small" in name
    model = models.build(name, **({} if small else {"layers": 2}))
    assert check_causality(model, probes=1, inputs=None if small else 4).leaks == []


@pytest.mark.parametrize("name", TINY)
def test_a_cache_of_keys_and_values_draws_the_same_pixels_as_whole_passes(name):
    model = moved(name)
    x = model.sample(3, key=KEY, method="naive")
    for method in ("cached", "auto", "jacobi"):
        assert torch.equal(model.sample(3, key=KEY, method=method), x), method
    mask = torch.zeros(x.shape[2:], dtype=torch.bool)
    mask[1, 1:3] = True
    given = [model.sample(3, key=KEY, given=data(model, 3), mask=mask, method=m) for m in ("naive", "cached")]
    assert torch.equal(*given) and torch.equal(given[0][:, :, mask], data(model, 3)[:, :, mask])


def test_recomputing_blocks_gives_the_same_gradients():
    x, grads = data(moved("strided")), []
    for recompute in (False, True):
        model = moved("strided", recompute=recompute).train()
        model.loss(x).total.backward()
        grads.append([parameter.grad for parameter in model.parameters()])
    assert_close(*grads)


# -- distribution augmentation -----------------------------------------------------------------------------------------


def test_every_augmentation_does_what_it_is_called():
    x = torch.arange(48).view(1, 3, 4, 4)
    augment = DistAug((3, 4, 4), distaug.TYPES)
    assert augment.counts == [4, 2, 6, 24]

    def of(*ids: int) -> Tensor:
        return augment(x, torch.tensor([ids]))

    assert torch.equal(of(0, 0, 0, 0), x)
    assert torch.equal(of(1, 0, 0, 0), torch.rot90(x, 1, (2, 3)))
    assert torch.equal(of(0, 1, 0, 0), x.mT)
    assert torch.equal(of(0, 0, 1, 0), x[:, [0, 2, 1]])
    assert torch.equal(of(0, 0, 0, 1)[..., :2, :], x[..., :2, :])
    assert torch.equal(of(0, 0, 0, 1)[..., 2:, :], x[..., 2:, [2, 3, 0, 1]])
    assert torch.equal(of(3, 1, 0, 0), torch.rot90(x, 3, (2, 3)).mT)
    for name, table in augment.named_buffers():
        assert len(table.unique(dim=0)) == len(table), name
        assert torch.equal(table.sort(1).values, torch.arange(48).expand_as(table)), name


def test_types_are_drawn_independently_and_leave_the_said_share_alone():
    augment = DistAug((1, 4, 4), ("rotation", "jigsaw"), unaugmented=0.36)
    ids = augment.draw(20000, key=KEY)
    still = (ids == 0).double()
    assert_close(still.mean(0), torch.full((2,), 0.6, dtype=torch.float64), rtol=0, atol=0.02)
    assert abs(still.prod(1).mean().item() - 0.36) < 0.02
    for t, count in enumerate(augment.counts):
        share = torch.bincount(ids[:, t], minlength=count)[1:] / 20000
        assert len(share) == count - 1 and (share - 0.4 / (count - 1)).abs().max() < 0.02
    assert torch.equal(augment.draw(5, key=KEY, sample_offset=3), augment.draw(8, key=KEY)[3:])


def test_no_augmentation_is_the_identity_and_each_one_is_told_to_the_model():
    model = moved("augmented", move_positions=False)
    x = data(model)
    none = torch.zeros(len(x), 4, dtype=torch.int64)
    assert_close(model.augmented_logits(x, None, none), model.logits(x))
    for t in range(4):
        told = none.clone()
        told[:, t] = 1
        assert (model.augmented_logits(x, None, told) - model.logits(x)).abs().amax((1, 2, 3, 4)).min() > 1e-6


def test_positions_move_with_their_pixels_where_they_should():
    model = moved("augmented")
    ids = torch.tensor([[1, 1, 2, 5]])
    x = data(model, 1)
    table, moved_table = model.positions(None)[0], model.positions(ids)[0]
    order = model.sequence(model.augment(torch.arange(48).view(1, 3, 4, 4), ids))[0]
    rank = model.sequence(torch.arange(48).view(1, 3, 4, 4))[0].argsort()  # token of each place
    assert torch.equal(moved_table, table[rank[order]])
    assert torch.equal(model.sequence(model.augment(x, ids)), model.sequence(x)[:, rank[order]])
    assert torch.equal(moved("augmented", move_positions=False).positions(ids), model.positions(None))


def test_training_draws_augmentations_from_the_key_and_evaluation_does_not():
    model = moved("augmented").train()
    x = data(model)
    first, again, other = (model.loss(x, key=key).total.item() for key in (KEY, KEY, random.key(4)))
    assert first == again and first != other
    ids = model.augment.draw(len(x), key=KEY)
    table = model.augmented_logits(model.augment(x, ids), None, ids).log_softmax(1)
    picked = table.gather(1, model.augment(x, ids).long().unsqueeze(1))
    assert math.isclose(first, -picked.sum().item() / (len(x) * 48 * math.log(2)), rel_tol=1e-9)
    model.eval()
    truth = -model.log_prob(x).mean().item() / (48 * math.log(2))
    assert math.isclose(model.loss(x, key=KEY).total.item(), truth, rel_tol=1e-12)


@pytest.mark.parametrize("name", ["sparse-transformer-small", "sparse-transformer-small-distaug"])
def test_a_minute_of_digits_beats_the_histogram_of_every_pixel(name):
    torch.manual_seed(0)
    samples = digits()
    model = models.build(name, layers=2, width=32, dropout=0.0, **({"unaugmented": 0.7} if "distaug" in name else {}))
    steps = 160
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for step in range(steps):
        rows = torch.randint(len(samples.train), (64,), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model.loss(samples.train[rows], key=random.key(step)).total.backward()
        optimizer.step()
    with torch.no_grad():
        assert model.eval().loss(samples.test).total < 2.437


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"attention must be one of .* got 'banded'"):
        sparse_transformer.Config(attention="banded")
    with pytest.raises(ValueError, match="shape must be that of square pictures for a rotation"):
        DistAug((1, 4, 6), ("rotation",))
    with pytest.raises(ValueError, match="DistAug: types must be among .* got 'blur'"):
        DistAug((1, 4, 4), ("blur",))
    with pytest.raises(ValueError, match="must have colours to permute"):
        DistAug((1, 4, 4), ("colours",))
    with pytest.raises(ValueError, match="must halve for a jigsaw"):
        DistAug((1, 5, 5), ("jigsaw",))
