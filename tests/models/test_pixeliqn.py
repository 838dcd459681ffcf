"""PixelIQN: quantiles that see neither pixels nor levels ahead, and samples that are functions of the levels."""

import pytest
import torch

from genkern import models, random
from genkern.models.autoregressive.pixeliqn import Config, PixelIQN
from genkern.nn import check_causality

GREY = Config((1, 4, 4), 9, None, layers=3, channels=4, head=5, cosines=4, embedding=4)
COLOUR = Config((3, 3, 4), 5, 2, layers=2, channels=12, head=24, cosines=4, embedding=24)
CONFIGS = {"grey": GREY, "colour by class": COLOUR}


def moved(config: Config) -> PixelIQN:
    """The model in float64 with parameters of no special values."""
    torch.manual_seed(0)
    model = PixelIQN(config).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model.eval()


def data(config: Config, n: int = 3) -> torch.Tensor:
    return torch.randint(0, config.levels, (n, *config.shape), generator=torch.Generator().manual_seed(1))


def labels(config: Config, n: int = 3) -> torch.Tensor | None:
    return None if config.classes is None else torch.arange(n) % config.classes


@pytest.mark.parametrize("name", CONFIGS)
def test_no_sub_pixel_sees_itself_or_a_later_one(name):
    report = check_causality(moved(CONFIGS[name]))
    assert report, str(report)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_level_reaches_its_own_sub_pixel_and_none_before(name):
    model = moved(CONFIGS[name])
    x, y = data(model.config, 1), labels(model.config, 1)
    size, generator = x[0].numel(), torch.Generator().manual_seed(0)

    def in_order(values: torch.Tensor) -> torch.Tensor:  # raster order, sub-pixels innermost
        return values.permute(0, 2, 3, 1).flatten()

    place = in_order(torch.arange(size).view_as(x))
    depends = torch.zeros(size, size, dtype=torch.bool)
    for _ in range(8):  # a rectifier may be shut at one of them
        x = torch.randint(0, model.config.levels, x.shape, generator=generator)
        tau = torch.rand(1, *model.config.shape, dtype=torch.float64, generator=generator)
        jacobian = torch.autograd.functional.jacobian(lambda t, x=x: in_order(model.quantiles(x, t, y)), tau)
        depends |= jacobian.reshape(size, size)[:, place] != 0
    assert not depends.triu(1).any() and depends.diagonal().all()


@pytest.mark.parametrize("name", CONFIGS)
def test_every_method_of_sampling_gives_the_same_pixels(name):
    model = moved(CONFIGS[name])
    x = model.sample(3, key=random.key(2), method="naive")
    assert x.shape == (3, *model.config.shape) and int(x.max()) < model.config.levels
    for method in ("jacobi", "auto", "cached", "wavefront"):
        assert torch.equal(model.sample(3, key=random.key(2), method=method), x), method
    assert torch.equal(model.sample(2, key=random.key(2), sample_offset=1, y=None if name == "grey" else
                                    torch.tensor([1, 0])), x[1:])  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_pixels_that_are_given_are_kept_and_a_sample_is_completed_to_itself(name):
    model, told = moved(CONFIGS[name]), []
    x = model.sample(3, key=random.key(2), temperature=0.7, progress=lambda *a: told.append(a))
    assert told == sorted(told) and told[-1][0] == told[-1][1]
    mask = torch.rand(x.shape[2:], generator=torch.Generator().manual_seed(4)) < 0.5
    given = data(model.config).to(x)
    again = model.sample(3, key=random.key(2), temperature=0.7, given=given, mask=mask, method="naive")
    for method in ("cached", "wavefront", "jacobi"):
        options = {"key": random.key(2), "temperature": 0.7, "method": method}
        assert torch.equal(model.sample(3, **options, given=x, first_row=2), x), method
        other = model.sample(3, **options, given=given, mask=mask)
        assert torch.equal(other, again) and torch.equal(other[:, :, mask], given[:, :, mask]), method


@pytest.mark.parametrize("name", CONFIGS)
def test_the_loss_reaches_every_parameter(name):
    model = moved(CONFIGS[name]).train()
    loss = model.loss(models.Batch(data(model.config), labels(model.config)), key=random.key(0))
    loss.total.backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert model.capabilities == frozenset()


def test_weights_are_saved_and_loaded_bit_for_bit(tmp_path):
    model = PixelIQN(GREY).eval()
    model.save(tmp_path)
    assert torch.equal(models.load(tmp_path).logits(data(GREY)), model.logits(data(GREY)))


def test_training_finds_the_quantiles_of_a_pixel():
    """One pixel that is 1 with probability 0.3 and else 7 of 0..8: so are the quantiles, and samples."""
    torch.manual_seed(0)
    model = PixelIQN(Config((1, 1, 1), 9, None, layers=2, channels=16, head=16, cosines=16, embedding=16))
    x = torch.full((200, 1, 1, 1), 7)
    x[:60] = 1
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for step in range(300):
        optimizer.zero_grad()
        model.loss(x, key=random.key(step)).total.backward()
        optimizer.step()
    drawn = model.sample(2000, key=random.key(7)).flatten()
    low, high = (drawn <= 2).float().mean().item(), (drawn >= 6).float().mean().item()
    assert abs(low - 0.3) <= 0.07 and abs(high - 0.7) <= 0.07


def test_a_layer_too_few_is_refused():
    with pytest.raises(ValueError, match="PixelIQN: layers must be 2 or more; got 1"):
        PixelIQN(Config(layers=1))
