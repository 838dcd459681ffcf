"""Autoregressive models: exact likelihoods of integer pixels, and one sample whichever way it is drawn."""

import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from genkern import models, random
from genkern.models.autoregressive import gated_pixelcnn, made, pixelcnn, pixelrnn, sparse_transformer
from genkern.models.autoregressive._base import AutoregressiveModel, check_picture
from genkern.nn import check_causality

KEY = random.key(7)


@dataclass(frozen=True)
class TableConfig:
    shape: tuple[int, ...] = (2, 2, 1)
    levels: int | None = 3
    classes: int | None = None


class Table(AutoregressiveModel):
    """Logits are linear in all sub-pixels before: the smallest model of the family."""

    config_class = TableConfig

    def __init__(self, config: TableConfig):
        super().__init__(config)
        check_picture("Table", config)
        size, levels = math.prod(config.shape), config.levels or 2
        self.weight = nn.Parameter(torch.zeros(size, size, levels))
        self.bias = nn.Parameter(torch.zeros(config.classes or 1, size, levels))

    def logits(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        channels, height, width = self.config.shape
        order = self.scale(x).permute(0, 2, 3, 1).flatten(1)  # raster order, channels innermost
        weight = torch.ones(len(self.weight), len(self.weight), device=x.device).triu(1)[..., None] * self.weight
        table = torch.einsum("bi,iol->bol", order, weight) + self.bias[0 if y is None else y]
        return table.reshape(len(x), height, width, channels, -1).permute(0, 4, 3, 1, 2)


# name: the model and its config; every model of the family adds its smallest ones here
TINY: dict[str, tuple[type[AutoregressiveModel], object]] = {
    "table": (Table, TableConfig()),
    "table by class": (Table, TableConfig(classes=2)),
    "pixelcnn": (pixelcnn.PixelCNN, pixelcnn.Config((1, 4, 4), 17, h=4, blocks=2, head=6)),
    "pixelcnn rgb": (pixelcnn.PixelCNN, pixelcnn.Config((3, 3, 4), 5, h=6, blocks=1, head=6)),
    "gated pixelcnn": (gated_pixelcnn.GatedPixelCNN, gated_pixelcnn.Config((1, 5, 4), 17, None, 3, 4, head=5)),
    "pixelrnn": (pixelrnn.PixelRNN, pixelrnn.Config((1, 3, 4), 17, layers=1, h=4, head=5)),
    "row pixelrnn": (pixelrnn.PixelRNN, pixelrnn.Config((1, 3, 4), 17, None, "row", layers=1, h=4, head=5)),
    "pixelrnn by class": (pixelrnn.PixelRNN, pixelrnn.Config((3, 3, 2), 5, 2, layers=1, h=6, head=6)),
    "row pixelrnn by class": (pixelrnn.PixelRNN, pixelrnn.Config((1, 3, 4), 5, 2, "row", layers=1, h=4, head=5)),
    "made": (made.MADE, made.Config((3, 2, 3), 5, None, (16, 12), None)),
    "made by class": (made.MADE, made.Config((1, 3, 4), 17, 2, (16,), None)),
    "sparse transformer": (
        sparse_transformer.SparseTransformer,
        sparse_transformer.Config((3, 2, 3), 5, 2, layers=2, width=8, heads=2),
    ),
    "gated pixelcnn rgb": (gated_pixelcnn.GatedPixelCNN, gated_pixelcnn.Config((3, 4, 3), 5, 3, 3, 6, head=6)),
}


def moved(name: str, dtype: torch.dtype = torch.float64) -> AutoregressiveModel:
    """The model with parameters of no special values, in evaluation mode."""
    torch.manual_seed(0)
    model_class, config = TINY[name]
    model = model_class(config).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model.eval()


def data(model: AutoregressiveModel, n: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, model.config.levels, (n, *model.config.shape), generator=generator, dtype=torch.uint8)


def labels(model: AutoregressiveModel, n: int = 4) -> Tensor | None:
    return None if model.config.classes is None else torch.arange(n) % model.config.classes


@pytest.mark.parametrize("name", ["table", "table by class"])
def test_the_probabilities_of_all_pictures_sum_to_one(name: str) -> None:
    model = moved(name)
    pictures = torch.tensor(list(itertools.product(range(3), repeat=4))).reshape(-1, 2, 2, 1)
    assert_close(model.log_prob(pictures).exp().sum(), torch.ones((), dtype=torch.float64))


@pytest.mark.parametrize("name", TINY)
def test_log_prob_is_the_sum_of_the_conditionals(name: str) -> None:
    model = moved(name)
    x, y = data(model), labels(model)
    table = model.logits(x, y).log_softmax(1)  # [B, levels, C, H, W]
    truth = torch.zeros(len(x), dtype=torch.float64)
    for c, i, j in itertools.product(*map(range, model.config.shape)):
        truth += table[torch.arange(len(x)), x[:, c, i, j].long(), c, i, j]
    assert_close(model.log_prob(x, y=y), truth)


@pytest.mark.parametrize("name", TINY)
def test_samples_are_pixels_and_every_method_gives_the_same(name: str) -> None:
    model = moved(name)
    x = model.sample(5, key=KEY, method="naive")
    assert x.shape == (5, *model.config.shape) and x.dtype == torch.uint8 and int(x.max()) < model.config.levels
    for method in ("auto", "jacobi", "cached", "wavefront"):
        if method in ("cached", "wavefront") and not hasattr(model, "network"):
            continue
        assert torch.equal(model.sample(5, key=KEY, method=method), x), method


@pytest.mark.parametrize("name", TINY)
def test_a_sample_is_the_same_whoever_draws_it(name: str) -> None:
    model = moved(name)
    assert torch.equal(model.sample(2, key=KEY, sample_offset=3), model.sample(5, key=KEY)[3:])


@pytest.mark.parametrize("name", TINY)
def test_given_pixels_are_kept_and_a_sample_is_completed_to_itself(name: str) -> None:
    model = moved(name)
    x = model.sample(3, key=KEY)
    mask = torch.zeros(x.shape[2:], dtype=torch.bool)
    mask[-1, :1] = True
    assert torch.equal(model.sample(3, key=KEY, given=x, mask=mask), x)
    assert torch.equal(model.sample(3, key=KEY, given=x, first_row=1), x)
    other = model.sample(3, key=KEY, given=data(model, 3), mask=mask)
    assert torch.equal(other[:, :, mask], data(model, 3)[:, :, mask])


@pytest.mark.parametrize("name", ["table", "table by class"])
def test_samples_have_the_frequencies_of_the_model(name: str) -> None:
    model = moved(name)
    x = model.sample(4000, key=KEY)
    code = (x.flatten(1).long() * 3 ** torch.arange(4)).sum(1)
    pictures = torch.tensor(list(itertools.product(range(3), repeat=4)))
    expected = torch.zeros(81, dtype=torch.float64)
    expected[(pictures * 3 ** torch.arange(4)).sum(1)] = model.log_prob(pictures.reshape(-1, 2, 2, 1)).exp()
    chi_squared = ((torch.bincount(code, minlength=81) - 4000 * expected) ** 2 / (4000 * expected)).sum()
    assert chi_squared < 130  # 80 degrees of freedom: less than one chance in a thousand


@pytest.mark.parametrize("name", TINY)
def test_the_loss_is_in_bits_per_dimension_and_reaches_every_parameter(name: str) -> None:
    model = moved(name).train()
    x = data(model)
    loss = model.loss(models.Batch(x, labels(model)), key=KEY)
    loss.total.backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert_close(loss.total.detach(), loss.terms["nats"] / (x[0].numel() * math.log(2)))


@pytest.mark.parametrize("name", TINY)
def test_progress_grows_to_the_end_and_changes_no_pixel(name: str) -> None:
    model, told = moved(name), []
    x = model.sample(2, key=KEY, progress=lambda *a: told.append(a))
    assert torch.equal(x, model.sample(2, key=KEY))
    assert told == sorted(told) and told[-1][0] == told[-1][1]


@pytest.mark.parametrize("name", [name for name in TINY if TINY[name][1].classes])
def test_classes_are_sampled_alike_by_every_method_and_differ(name: str) -> None:
    model = moved(name)
    methods = ("naive", "jacobi", "auto", *(("cached", "wavefront") if hasattr(model, "network") else ()))
    for y in (0, 1):
        first = model.sample(4, key=KEY, y=y, method="naive")
        assert all(torch.equal(model.sample(4, key=KEY, y=y, method=m), first) for m in methods)
    x = data(model)
    assert not torch.equal(model.logits(x, torch.zeros(4).long()), model.logits(x, torch.ones(4).long()))


@pytest.mark.parametrize("mixtures", [None, 2])
def test_made_leaks_nothing_and_sees_all_sub_pixels_before(mixtures: int | None) -> None:
    torch.manual_seed(0)
    report = check_causality(made.MADE(made.Config((3, 2, 3), 5, None, (200,), mixtures)), probes=4)
    assert report and not report.unseen


def test_a_made_of_mixtures_sums_to_one_and_samples_alike() -> None:
    torch.manual_seed(0)
    model = made.MADE(made.Config((2, 2, 1), 3, None, (12,), 2)).double()
    pictures = torch.tensor(list(itertools.product(range(3), repeat=4))).reshape(-1, 2, 2, 1)
    assert_close(model.log_prob(pictures).exp().sum(), torch.ones((), dtype=torch.float64))
    x = model.sample(4, key=KEY, method="naive")
    assert torch.equal(model.sample(4, key=KEY, method="jacobi"), x) and len(x.unique()) > 1
    told: list[tuple[int, int]] = []
    assert torch.equal(model.sample(4, key=KEY, method="cached", progress=lambda *a: told.append(a)), x)
    assert told == [(1, 2), (2, 2)]
    given = (x + 1) % 3
    completed = model.sample(4, key=KEY, given=given, first_row=1)
    assert torch.equal(completed[:, :, :1], given[:, :, :1])
    assert torch.equal(completed, model.sample(4, key=KEY, given=given, first_row=1, method="naive"))


def test_temperature_zero_takes_the_most_likely_level() -> None:
    model = moved("table")
    x = model.sample(2, key=KEY, temperature=0.0)
    assert torch.equal(model.logits(x).argmax(1), x.long())


def test_what_does_not_fit_is_named() -> None:
    model = moved("table")
    with pytest.raises(ValueError, match=r"Table: x must be \['B', 2, 2, 1\]; got \[3, 1, 2, 2\]"):
        model.log_prob(torch.zeros(3, 1, 2, 2, dtype=torch.uint8))
    with pytest.raises(TypeError, match=r"x must be integer pixels in \[0, 3\); got torch.float32"):
        model.log_prob(torch.zeros(3, 2, 2, 1))
    with pytest.raises(ValueError, match="y must be None, since the model has no classes"):
        model.sample(2, key=KEY, y=1)
    with pytest.raises(ValueError, match="method must be one of"):
        model.sample(2, key=KEY, method="magic")
    with pytest.raises(ValueError, match=r"y must be in \[0, 2\); got 2"):
        moved("table by class").sample(2, key=KEY, y=2)


REGISTERED = [name for name, preset in models.presets().items() if issubclass(preset.model, AutoregressiveModel)]


@pytest.mark.parametrize("name", [name for name in REGISTERED if name.endswith("-small")])
def test_a_small_model_saves_and_loads_the_same_bits(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = models.build(name).eval()
    model.save(tmp_path)
    loaded, x = models.load(tmp_path), data(model, 2)
    assert type(loaded) is type(model) and loaded.config == model.config
    assert torch.equal(loaded.logits(x, labels(model, 2)), model.logits(x, labels(model, 2)))


REDUCED = {  # of presets whose Jacobian at full size would take minutes: fewer pixels or layers, the same kinds of them
    "made": {"shape": (3, 4, 4)},
    "made-mnist": {"shape": (1, 8, 8)},
    "pixelcnn-pp": {"shape": (3, 8, 8), "resnets": 1},
    "pixelcnn-pp-mnist": {"shape": (1, 8, 8), "resnets": 2},
    "pixeliqn": {"shape": (3, 6, 6), "layers": 3},
    "pixeliqn-mnist": {"shape": (1, 9, 9)},
}
WHOLE = ("pixelcnn", "gated_pixelcnn", "pixelrnn", "sparse_transformer")  # in the tests of those models


@pytest.mark.parametrize(
    "name", [n for n in REGISTERED if models.presets()[n].model.__module__.rpartition(".")[2] not in WHOLE]
)
def test_no_preset_leaks(name: str) -> None:
    torch.manual_seed(0)
    report = check_causality(models.build(name, **REDUCED.get(name, {})), probes=1, inputs=6)
    assert report and report.pairs > 0, report
