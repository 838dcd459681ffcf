"""The training loop: the same run whatever happens to it, and never on top of something else."""

import json
import math
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import toy_model

from genkern import models, random
from genkern.experiments import Diverged, Interrupted, TrainConfig, train, training
from genkern.experiments.average import Average
from genkern.experiments.order import BatchOrder
from genkern.experiments.run import Run

SETTINGS = dict(steps=40, batch_size=32, lr=0.05, warmup=5, clip=50.0, evaluate_every=10, checkpoint_every=7)
CONFIG = TrainConfig("toy-pixels", **SETTINGS)
KILLS = {"in a step": "step 33", "in a write of the checkpoint": "save 28"}


def checkpoint(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def assert_same_end(folder, other):
    """Weights, averages, optimiser, early stopping, metrics and the best model, bit for bit."""
    mine, others = checkpoint(folder), checkpoint(other)
    for state in (mine, others):
        state["progress"].pop("seconds")
    torch.testing.assert_close(mine, others, rtol=0, atol=0)
    assert (folder / "best/model.safetensors").read_bytes() == (other / "best/model.safetensors").read_bytes()
    assert [without_time(row) for row in Run(folder).rows()] == [without_time(row) for row in Run(other).rows()]


def without_time(row):
    return {name: value for name, value in row.items() if name != "seconds"}


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """Runs in processes of their own, side by side: two that are killed, and one that is two processes."""
    root, script = tmp_path_factory.mktemp("runs"), str(Path(__file__).with_name("train_toy.py"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(models.__file__).parents[2])}
    words = [f"{name}={value!r}" for name, value in SETTINGS.items()]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script]
    commands = {name: [sys.executable, script, str(root / name), f"die={kill}", *words] for name, kill in KILLS.items()}
    commands["two processes"] = [*torchrun, str(root / "two processes"), *words]
    started = {
        name: subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for name, command in commands.items()
    }
    outputs = {name: process.communicate(timeout=300)[0] for name, process in started.items()}
    return root, {name: (process.returncode, outputs[name]) for name, process in started.items()}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "MODULES", ["toy_model"])
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        train(CONFIG, folder, device="cpu")
        torch.set_num_threads(threads)
    return folder


@pytest.mark.parametrize("kill", KILLS)
def test_a_killed_run_resumes_and_ends_with_the_same_bits(processes, uninterrupted, kill):
    root, results = processes
    code, output = results[kill]
    assert code == -signal.SIGKILL, output
    assert checkpoint(root / kill)["progress"]["step"] in (21, 28)  # the last one that was complete
    train(CONFIG, root / kill, device="cpu", resume=True)
    assert_same_end(root / kill, uninterrupted)
    assert not list((root / kill).rglob("*.partial*"))


def test_two_processes_end_where_one_does(processes, uninterrupted):
    root, results = processes
    code, output = results["two processes"]
    assert code == 0, output
    mine, one = checkpoint(root / "two processes"), checkpoint(uninterrupted)
    for part in ("model", "average"):
        torch.testing.assert_close(mine[part], one[part], rtol=1e-4, atol=1e-5)
    assert math.isclose(mine["progress"]["best"], one["progress"]["best"], rel_tol=1e-5)
    rows = [[(row["step"], *row) for row in Run(folder).rows()] for folder in (root / "two processes", uninterrupted)]
    assert rows[0] == rows[1]  # one process writes, and every line once


def test_a_run_folder_holds_what_it_should(uninterrupted):
    names = {path.name for path in uninterrupted.iterdir()}
    assert names == {
        "config.json",
        "metrics.jsonl",
        "checkpoint.pt",
        "best",
        "summary.json",
        "samples.png",
        "curves.png",
    }
    summary = json.loads((uninterrupted / "summary.json").read_text())
    assert summary["unit"] == "bits/dim" and summary["steps"] == 40
    assert round(summary["baselines"]["uniform"], 3) == 4.087 and round(summary["baselines"]["histogram"], 3) == 2.437
    assert summary["baselines"]["histogram"] < summary["test"] < summary["baselines"]["uniform"]
    assert summary["reconstruction"] == {"rmse": 0.0, "max": 0.0}


def test_resuming_a_finished_run_changes_nothing(uninterrupted):
    before = (uninterrupted / "checkpoint.pt").read_bytes(), (uninterrupted / "metrics.jsonl").read_bytes()
    train(CONFIG, uninterrupted, device="cpu", resume=True)
    assert ((uninterrupted / "checkpoint.pt").read_bytes(), (uninterrupted / "metrics.jsonl").read_bytes()) == before


def test_sigterm_lets_a_run_write_its_checkpoint(tmp_path, monkeypatch, uninterrupted):
    forward, calls = toy_model.Pixels.loss, iter(range(100))

    def loss(*args, **kwargs):
        if next(calls) == 12:
            os.kill(os.getpid(), signal.SIGTERM)
        return forward(*args, **kwargs)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(toy_model.Pixels, "loss", loss)
        with pytest.raises(Interrupted, match="stopped at step 13 of 40; --resume goes on"):
            train(CONFIG, tmp_path, device="cpu")
    assert signal.getsignal(signal.SIGTERM) is before
    assert checkpoint(tmp_path)["progress"]["step"] == 13
    train(CONFIG, tmp_path, device="cpu", resume=True)
    assert_same_end(tmp_path, uninterrupted)


def test_a_run_stops_early_and_keeps_the_best_model(tmp_path):
    config = TrainConfig(
        "toy-pixels",
        steps=500,
        batch_size=64,
        lr=3.0,
        warmup=0,
        schedule="constant",
        ema=0.0,
        evaluate_every=5,
        patience=3,
    )
    summary = train(config, tmp_path, device="cpu")
    rows = [row for row in Run(tmp_path).rows() if "validation" in row]
    best = min(rows, key=lambda row: row["validation"])
    assert summary["steps"] < 500 and summary["best_step"] == best["step"] == summary["steps"] - 15
    assert train(config, tmp_path, device="cpu", resume=True)["steps"] == summary["steps"]  # and stays stopped


def test_a_run_that_diverges_says_so(tmp_path):
    config = TrainConfig("toy-vectors", data="checkerboard", steps=50, lr=1e4, warmup=0, schedule="constant")
    with pytest.raises(Diverged, match="try a smaller --lr"):
        train(config, tmp_path, device="cpu")


@pytest.mark.parametrize("precision", ["bf16", "64"])
def test_other_precisions_train_vectors(tmp_path, precision):
    config = TrainConfig("toy-vectors", data="checkerboard", precision=precision, steps=10, weight_decay=0.01)
    summary = train(config, tmp_path, device="cpu")
    assert summary["unit"] == "nats" and summary["test"] > summary["baselines"]["exact entropy"] == math.log(32)
    assert (tmp_path / "samples.png").stat().st_size > 1000
    logits = models.load(tmp_path / "best").logits
    assert logits.dtype == (torch.float64 if precision == "64" else torch.float32)


# -- folders --------------------------------------------------------------------------------------------------------


def test_a_folder_of_something_else_is_never_written(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for resume in (False, True):
        with pytest.raises(FileExistsError, match="files that are not a run of genkern; give another --out"):
            train(CONFIG, tmp_path, device="cpu", resume=resume)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(FileExistsError, match="is a file"):
        train(CONFIG, tmp_path / "thesis.tex", device="cpu")


def test_a_run_is_not_overwritten_and_another_not_resumed(uninterrupted):
    with pytest.raises(FileExistsError, match="go on with --resume, or give another --out"):
        train(CONFIG, uninterrupted, device="cpu")
    other = TrainConfig("toy-pixels", **{**SETTINGS, "lr": 0.01})
    for resume in (False, True):
        with pytest.raises(FileExistsError, match=r"another run \(lr is 0.05 there, 0.01 here\)"):
            train(other, uninterrupted, device="cpu", resume=resume)


def test_a_checkpoint_that_cannot_be_written_or_read_is_an_error_of_the_system(tmp_path):
    run = Run(tmp_path)
    run.save_state({"step": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))  # what a full disk is to torch.save
    try:
        with pytest.raises(OSError, match="checkpoint.pt could not be written"):
            run.save_state({"weights": torch.zeros(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert run.load_state() == {"step": 1} and [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
    run.checkpoint.write_bytes(b"half")
    with pytest.raises(OSError, match="checkpoint.pt could not be read"):
        run.load_state()


def test_lines_that_a_kill_cut_short_are_forgotten(tmp_path):
    run = Run(tmp_path)
    for step in (10, 20, 30):
        run.log(step, loss=1.0)
    with open(run.metrics, "a") as file:
        file.write('{"step": 40, "lo')
    run.rewind(20)
    assert run.rows() == [{"step": 10, "loss": 1.0}, {"step": 20, "loss": 1.0}]


# -- pure functions -------------------------------------------------------------------------------------------------


def test_an_epoch_visits_every_sample_once_and_epochs_differ():
    order = BatchOrder(100, 20, random.key(3))
    epochs = [torch.cat([order.batch(5 * epoch + i) for i in range(5)]) for epoch in range(3)]
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(100))
    assert not torch.equal(epochs[0], epochs[1]) and not torch.equal(epochs[1], epochs[2])
    again = BatchOrder(100, 20, random.key(3))
    assert torch.equal(again.batch(11), order.batch(11))
    assert not torch.equal(BatchOrder(100, 20, random.key(4)).batch(11), order.batch(11))


def test_a_batch_larger_than_the_data_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--batch-size must be at most the 1350 training samples, got 2000"):
        train(TrainConfig("toy-pixels", batch_size=2000), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()  # so that the next try may have the same folder


def test_the_shape_is_that_of_the_data(tmp_path):
    with pytest.raises(ValueError, match="--set shape: it is that of the data, digits"):
        train(TrainConfig("toy-pixels", options={"shape": (3, 8, 8)}), tmp_path, device="cpu")


def test_the_learning_rate_rises_then_falls_to_zero():
    config = TrainConfig("toy-pixels", steps=100, warmup=10, lr=1.0)
    rates = [config.learning_rate(step) for step in range(101)]
    assert rates[:10] == sorted(rates[:10]) and rates[0] > 0
    assert rates[10:] == sorted(rates[10:], reverse=True) and rates[10] == 1.0 and rates[100] < 1e-12


def test_the_average_is_the_weighted_sum_of_all_weights():
    model = toy_model.Pixels(toy_model.Config(shape=(1, 1, 1), levels=3)).double()
    average, expected = Average(model, 0.5), model.logits.detach().clone()
    for n in range(20):
        torch.nn.init.normal_(model.logits)
        average.update(n)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * model.logits.detach()
    torch.testing.assert_close(average.model.logits, expected)
    assert not average.model.logits.requires_grad


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"steps": 0}, "--steps must be positive, got 0"),
        ({"ema": 1.0}, "--ema must be in"),
        ({"precision": "8"}, "--precision must be one of 32, bf16, 16, 64, got '8'"),
        ({"lr": math.nan}, "--lr must be positive, got nan"),
        ({"batch_size": -1}, "--batch-size must be positive"),
        ({"betas": (0.9, 1.0)}, "--betas must be two numbers in"),
    ],
)
def test_settings_that_make_no_sense_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig("toy-pixels", **setting)


@pytest.mark.parametrize("device", ["cdua", "cuda:x", "cpu0"])
def test_unknown_devices_are_refused(device):
    with pytest.raises(ValueError, match="--device must be auto"):
        training.make_fabric(device, "32")
