"""The command line: what it prints, and what it says when something is wrong."""

import dataclasses
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.cells import cell_len

import genkern
from genkern import cli, models
from genkern.experiments import TrainConfig, suggested
from genkern.experiments.data import DATA_SETS
from genkern.experiments.progress import Live, Plain, for_terminal

QUICK = ["--steps", "12", "--evaluate-every", "6", "--checkpoint-every", "6", "--batch-size", "32", "--device", "cpu"]


@pytest.fixture(autouse=True)
def _toy_models(monkeypatch, tmp_path):
    monkeypatch.setattr(models, "MODULES", [*models.MODULES, "toy_model"])
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def genkern_command(monkeypatch, capsys):
    """Runs the command in this process: exit code, stdout, stderr."""

    def command(*words):
        monkeypatch.setattr(sys, "argv", ["genkern", *words])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        code = stop.value.code
        return (0 if code is None else code), captured.out, captured.err

    return command


def python(code):
    """A fresh interpreter that finds the same genkern."""
    environment = {**os.environ, "PYTHONPATH": str(Path(genkern.__file__).parents[1])}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)


def flat(text):
    """Help without the frames of its tables."""
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", re.sub(r"\x1b\[[0-9;]*m", "", text)).split())


def test_help_names_every_command_and_what_it_does(genkern_command):
    for words in (["--help"], ["-h"], []):
        code, out, err = genkern_command(*words)
        assert code == 0 and not err
        for command in ("train", "sample", "score", "models", "info", "bench"):
            assert command in out


def test_help_of_train_names_every_data_set_and_option(genkern_command):
    code, out, _ = genkern_command("train", "--help")
    assert code == 0
    text = flat(out)
    for name in [
        *DATA_SETS,
        "--resume",
        "--precision",
        "--device",
        "--seed",
        "--out",
        "--lr",
        "torchrun",
        "runs/MODEL-DATA",
    ]:
        assert name in text
    code, out, _ = genkern_command("sample", "--help")
    assert code == 0 and "--temperature" in out


def test_the_command_has_the_defaults_of_the_library():
    defaults = {name: parameter.default for name, parameter in inspect.signature(cli.train).parameters.items()}
    for field in dataclasses.fields(TrainConfig):
        if field.name in defaults and field.name != "model":
            assert defaults[field.name] in (field.default, None), field.name


def test_what_is_not_said_is_taken_from_the_recipe_of_the_preset_and_the_kind_of_data():
    assert suggested("glow-small", "digits", lr=None) == TrainConfig("glow-small", "digits")
    assert suggested("nsf", "checkerboard") == TrainConfig("nsf", "checkerboard", batch_size=256)
    recipe = models.recipe("residual-flow-2d")
    assert recipe["lr"] == 2e-2 and models.recipe("glow-small") == {}
    assert suggested("residual-flow-2d", "two-moons", steps=7).lr == 2e-2
    assert suggested("residual-flow-2d", "two-moons", lr=1e-3, steps=7) == TrainConfig(
        "residual-flow-2d", "two-moons", **{**recipe, "lr": 1e-3, "steps": 7}
    )
    names = models.presets()
    for path in models.MODULES:
        for name, fields in getattr(sys.modules[path], "RECIPES", {}).items():
            assert name in names and TrainConfig(name, **fields)


def test_a_model_is_trained_resumed_and_sampled(genkern_command, tmp_path):
    code, out, err = genkern_command("train", "toy-pixels", *QUICK)
    assert code == 0, err
    assert "step 6/12" in out and "step 12/12" in out and "\x1b" not in out and "\r" not in out
    for words in (
        "digits, test part, Pixels",
        "uniform 4.0875 bits/dim",
        "histogram 2.4367 bits/dim",
        "reconstruction error",
    ):
        assert words in flat(out)
    run = tmp_path / "runs" / "toy-pixels-digits"
    assert json.loads((run / "summary.json").read_text())["steps"] == 12

    code, out, err = genkern_command("train", "toy-pixels", *QUICK)
    assert (
        code == 1
        and err
        == "genkern: runs/toy-pixels-digits holds this run already; go on with --resume, or give another --out.\n"
    )
    assert genkern_command("train", "toy-pixels", *QUICK, "--resume")[0] == 0

    code, out, err = genkern_command("sample", str(run), "--n", "9", "--temperature", "0.5", "--out", "some/nine.png")
    assert code == 0 and (tmp_path / "some/nine.png").stat().st_size > 100, err
    arrays = []
    for name in ("a.npy", "b.npy"):
        assert genkern_command("sample", str(run / "best"), "-n", "5", "--out", name, "--seed", "7")[0] == 0
        arrays.append(np.load(name))
    assert arrays[0].shape == (5, 1, 8, 8) and (arrays[0] == arrays[1]).all()


def test_options_of_the_model_are_set_by_name(genkern_command, tmp_path):
    assert cli._options(["a=3", "b=(1, 2)", "c=exp", "d=None", "e=x=y"]) == {
        "a": 3, "b": (1, 2), "c": "exp", "d": None, "e": "x=y",
    }  # fmt: skip
    code, _, err = genkern_command("train", "toy-pixels", *QUICK, "--set", "optic=3")
    assert code == 1 and "unknown option of toy-pixels 'optic'; did you mean 'optics'?" in err


def test_a_model_with_classes_is_trained_and_sampled_by_label(genkern_command, tmp_path):
    tiny = ("--set", "classes=10", "--set", "scales=1", "--set", "steps=1", "--set", "hidden=4")
    code, _, err = genkern_command("train", "glow-small", *QUICK, *tiny, "--out", "run")
    assert code == 0, err
    model = models.load("run/best")
    with torch.no_grad():
        model.prior.mean[3] += 3  # so few steps do not tell the classes apart
    model.save("run/best")
    arrays = []
    for name, words in {"any": (), "three": ("--label", "3")}.items():
        code, _, err = genkern_command("sample", "run", "-n", "4", "--out", f"{name}.npy", *words)
        assert code == 0, err
        arrays.append(np.load(f"{name}.npy"))
    assert arrays[0].shape == (4, 1, 8, 8) and (arrays[0] != arrays[1]).any()
    assert genkern_command("sample", "run", "-n", "4", "--label", "3", "--out", "three.png")[0] == 0
    assert "y must be in [0, 10); got 10" in genkern_command("sample", "run", "--label", "10")[2]
    assert genkern_command("train", "toy-pixels", *QUICK, "--out", "plain")[0] == 0
    code, out, _ = genkern_command("score", "run", "-n", "20")
    assert code == 0 and "of 20 samples" in out
    code, _, err = genkern_command("sample", "plain", "--label", "3")
    assert code == 1 and err == "genkern: --label: the Pixels in plain has no classes.\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "toy-pixel"], "unknown model 'toy-pixel'; did you mean 'toy-pixels'?"),
        (["train", "toy-pixels", "--data", "mnst"], "unknown data set 'mnst'; did you mean 'mnist'?"),
        (["train", "toy-pixels", "--precision", "8"], "--precision must be one of 32, bf16, 16, 64, got '8'."),
        (["train", "toy-pixels", "--device", "cdua"], "--device must be auto, cpu, cuda, cuda:N or mps, got 'cdua'."),
        (["train", "toy-pixels", "--set", "levels"], "--set takes NAME=VALUE, got 'levels'."),
        (["train", "toy-pixels", "--set", "optics=3"], "toy-pixels: optics must be toy_model.Optics | None; got 3."),
        (["sample", "nowhere", "--temperature", "-1"], "--temperature must not be negative, got -1.0."),
        (["train", "toy-pixels", "--steps", "many"], "'--steps'"),
        (["train", "toy-pixels", "--bath-size", "3"], "--batch-size"),
        (["train"], "genkern train --help"),
        (["trian"], "'train'"),
        (["sample", "nowhere"], "nowhere is neither a run with a best model nor a saved model."),
        (["sample", "nowhere", "--out", "x.jpg"], "--out must end in .png or .npy, got x.jpg."),
        (["sample", "nowhere", "--n", "0"], "--n must be positive, got 0."),
        (["score", "nowhere", "--n", "1"], "--n must be at least 2, got 1."),
        (["score", "nowhere"], "nowhere does not say on what data it was trained; give --data."),
    ],
)
def test_an_error_is_one_line_that_helps(genkern_command, words, message):
    code, out, err = genkern_command(*words)
    assert code in (1, 2) and not out
    assert err.startswith("genkern: ") and err.count("\n") == 1 and message in err


def test_a_defect_of_genkern_keeps_its_trace(genkern_command, monkeypatch):
    monkeypatch.setattr(models, "presets", lambda: {}["a bug"])
    monkeypatch.setattr(sys, "argv", ["genkern", "models"])
    with pytest.raises(KeyError, match="a bug"):
        cli.main()


def test_models_are_listed_and_one_is_shown(genkern_command):
    code, out, _ = genkern_command("models")
    row = next(line for line in out.splitlines() if line.startswith("toy-pixels"))
    assert code == 0 and "1x8x8" in row and "17" in row and "smallest model" in row
    code, out, _ = genkern_command("models", "toy-vectors")
    assert code == 0 and "Pixels, which has log_prob, reconstruct" in out and "  shape=(2,)\n" in out
    assert "did you mean 'toy-pixels'" in genkern_command("models", "toy-pixel")[2]


@pytest.mark.parametrize("columns", [80, 200])
def test_layers_are_listed_at_any_width(genkern_command, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    code, out, _ = genkern_command("layers")
    assert code == 0 and "ActNorm" in out and "closed form" in out and "…" not in out
    assert max(map(cell_len, out.splitlines())) <= columns


def test_info_prints_versions(genkern_command):
    code, out, _ = genkern_command("info")
    assert code == 0 and "torch" in out and genkern.__version__ in out


def test_bench_is_handed_its_words(genkern_command, monkeypatch):
    words = []
    bench = type(sys)("genkern.bench")
    bench.main = lambda argv: words.extend(argv) or 3
    monkeypatch.setitem(sys.modules, "genkern.bench", bench)
    code, _, _ = genkern_command("bench", "--quick", "--json", "out.json", "--help")
    assert code == 3 and words == ["--quick", "--json", "out.json", "--help"]


def test_a_bar_is_for_terminals_only(monkeypatch):
    assert isinstance(for_terminal(), Plain)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert isinstance(for_terminal(), Live)


def test_the_bar_shows_steps_and_values(monkeypatch, capsys):
    live = Live()
    live.start("toy on digits", 10, 4)
    live.step(6, {"loss": 1.5})
    live.evaluated(6, "validation 2.25 bits/dim")
    live.step(10, {"loss": 1.25})
    live.stop()
    out = capsys.readouterr().out
    for words in ("toy on digits", "10/10", "loss 1.25", "validation 2.25 bits/dim"):
        assert words in out


def test_importing_genkern_imports_no_trainer_and_no_plots():
    heavy = ["typer", "rich", "lightning_fabric", "lightning", "matplotlib", "sklearn", "safetensors", "torchdiffeq"]
    code = f"import genkern, genkern.models, sys; print([name for name in {heavy} if name in sys.modules])"
    result = python(code)
    assert result.stdout == "[]\n", result.stderr


def test_missing_packages_are_named_with_what_installs_them():
    block = "import sys; sys.modules['typer'] = None; sys.argv = ['genkern', 'models']; import genkern.cli"
    result = python(block)
    assert result.returncode == 1
    needs, without = result.stderr.splitlines()
    assert needs == "genkern's command line needs typer and rich: pip install 'genkern[train]'"
    assert "print(genkern.info())" in without


def test_training_without_fabric_says_what_to_install(genkern_command, monkeypatch):
    for name in ("lightning_fabric", "lightning", "lightning.fabric"):
        monkeypatch.setitem(sys.modules, name, None)
    code, _, err = genkern_command("train", "toy-pixels", *QUICK)
    assert code == 1 and err == "genkern: training needs Lightning Fabric: pip install 'genkern[train]'\n"
