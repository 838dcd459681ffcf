"""The protocol of models and their registry."""

import json
import re
import resource
import typing

import pytest
import torch
from toy_model import Config, Optics, Pixels

from genkern import models
from genkern.models._base import fits


@pytest.fixture(autouse=True)
def _toy_models(monkeypatch):
    monkeypatch.setattr(models, "MODULES", [*models.MODULES, "toy_model"])


def trained(config=None, dtype=torch.float32):
    model = Pixels(config or Config()).to(dtype)
    torch.nn.init.normal_(model.logits, generator=torch.Generator().manual_seed(0))
    model.initialize(torch.zeros(1))
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_saved_model_comes_back_bit_for_bit(tmp_path, dtype):
    model = trained(Config(optics=Optics(blur=0.25, sizes=(3, 4))), dtype)
    model.save(tmp_path)
    for loaded in (models.load(tmp_path), Pixels.load(tmp_path)):
        assert loaded.config == model.config and type(loaded) is Pixels and not loaded.training
        for name, value in model.state_dict().items():
            assert loaded.state_dict()[name].dtype == value.dtype
            assert torch.equal(loaded.state_dict()[name], value)


def test_saving_leaves_nothing_but_the_two_files(tmp_path):
    trained().save(tmp_path / "new" / "folder")
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == ["config.json", "model.safetensors"]
    assert json.loads((tmp_path / "new/folder/config.json").read_text())["config"]["levels"] == 17


def test_a_save_that_fails_leaves_the_old_model(tmp_path, monkeypatch):
    model = trained()
    model.save(tmp_path)
    import safetensors.torch

    def dies_halfway(model, path, metadata):
        with open(path, "wb") as file:
            file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(safetensors.torch, "save_model", dies_halfway)
    with pytest.raises(OSError, match="disk full"):
        trained(Config(levels=3)).save(tmp_path)
    monkeypatch.undo()
    assert torch.equal(Pixels.load(tmp_path).logits, model.logits)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_capabilities_are_what_the_class_defines():
    assert Pixels(Config()).capabilities == {"log_prob", "reconstruct"}
    assert models.GenerativeModel(Config()).capabilities == set()


def test_build_replaces_fields_of_a_preset():
    model = models.build("toy-pixels", shape=(3, 4, 4), levels=256)
    assert model.config == Config(shape=(3, 4, 4), levels=256)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"levels": "17"}, "toy-pixels: levels must be int | None; got '17'"),
        ({"levels": 2.5}, "toy-pixels: levels must be int | None; got 2.5"),
        ({"shape": 8}, "toy-pixels: shape must be tuple[int, ...]; got 8"),
        ({"shape": (1, 8.0, 8)}, "toy-pixels: shape must be tuple"),
        ({"optics": 1}, "toy-pixels: optics must be toy_model.Optics | None; got 1"),
        ({"levels": -3}, "toy-pixels cannot be built with levels=-3: .*negative"),
    ],
)
def test_values_that_a_config_cannot_have_are_refused(overrides, message):
    with pytest.raises(ValueError, match=re.escape(message) if ".*" not in message else message):
        models.build("toy-pixels", **overrides)


def test_a_list_becomes_the_tuple_that_the_config_declares():
    assert models.build("toy-pixels", shape=[3, 4, 4]).config.shape == (3, 4, 4)


@pytest.mark.parametrize("name", models.presets())
def test_every_preset_has_values_of_its_declared_types(name):
    config = models.presets()[name].config
    hints = typing.get_type_hints(type(config))
    assert [field for field, value in vars(config).items() if not fits(hints[field], value)] == []


def test_a_broken_file_of_weights_is_named(tmp_path):
    trained().save(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"half")
    with pytest.raises(OSError, match="model.safetensors could not be read"):
        models.load(tmp_path)


def test_a_full_disk_is_an_error_of_the_system_that_leaves_the_old_model(tmp_path):
    model = trained()
    model.save(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="could not be written|too large"):
            trained(Config(levels=30)).save(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert torch.equal(Pixels.load(tmp_path).logits, model.logits)


def test_wrong_names_get_the_nearest_right_one(tmp_path):
    with pytest.raises(ValueError, match="unknown model 'toy-pixel'; did you mean 'toy-pixels'"):
        models.build("toy-pixel")
    with pytest.raises(ValueError, match="unknown option of toy-pixels 'level'; did you mean 'levels'"):
        models.build("toy-pixels", level=3)
    with pytest.raises(ValueError, match="holds no saved model"):
        models.load(tmp_path)
