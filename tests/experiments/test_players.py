"""Players that take turns, and steps that a model skips: still the same run whatever happens to it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from genkern import models
from genkern.experiments import TrainConfig, train, training
from genkern.experiments.run import Run
from genkern.models import Batch, Loss, Player
from genkern.models.vae.aae import AAE
from genkern.models.vae.vdvae import VDVAE

SMALL = {"latents": 2, "channels": (4,), "hidden": 8, "critic": 8}
SETTINGS = dict(steps=12, batch_size=16, warmup=2, clip=5.0, evaluate_every=6, checkpoint_every=4)
ADVERSARIAL = TrainConfig("aae-small-mixture", options=SMALL, **SETTINGS)
BLOCKS = {"encoder": "8x1,8d8,1x1", "decoder": "1x1,8m1,8x1", "width": 8, "latents": 2, "window": 4}
SKIPPING = TrainConfig("vdvae-small", options=BLOCKS, **{**SETTINGS, "clip": 0.0})


class Killed(Exception):
    pass


def state(folder: Path) -> dict:
    found = torch.load(folder / "checkpoint.pt", weights_only=True)
    found["progress"].pop("seconds")
    return found


def assert_same_end(folder: Path, other: Path) -> None:
    torch.testing.assert_close(state(folder), state(other), rtol=0, atol=0)
    rows = [[{k: v for k, v in row.items() if k != "seconds"} for row in Run(f).rows()] for f in (folder, other)]
    assert rows[0] == rows[1]


@pytest.mark.parametrize(("config", "kind"), [(ADVERSARIAL, AAE), (SKIPPING, VDVAE)], ids=["players", "skipped steps"])
def test_a_killed_run_resumes_and_ends_with_the_same_bits(tmp_path, monkeypatch, config, kind):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(config, whole, device="cpu")
    forward, calls = kind.loss_of, iter(range(1000))

    def loss_of(*args, **kwargs):
        if next(calls) == 9 * (2 if kind is AAE else 1) + (1 if kind is AAE else 0):  # amid a step, between two turns
            raise Killed
        return forward(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "loss_of", loss_of)
        with pytest.raises(Killed):
            train(config, killed, device="cpu")
    assert state(killed)["progress"]["step"] == 8
    train(config, killed, device="cpu", resume=True)
    assert_same_end(killed, whole)


def test_every_player_has_its_optimiser_its_loss_and_its_pictures(tmp_path):
    summary = train(ADVERSARIAL, tmp_path, device="cpu")
    assert summary["unit"] == "loss" and "reconstruction" in summary
    found = state(tmp_path)["optimizers"]
    assert set(found) == {"discriminator", "autoencoder"}
    assert [group["betas"][0] for name in found for group in found[name]["param_groups"]] == [0.5, 0.5]
    row = next(row for row in Run(tmp_path).rows() if "loss" in row)
    assert row["loss"] == pytest.approx(row["loss_discriminator"] + row["loss_autoencoder"])
    assert {"guessed", "deceit", "gradient_norm_discriminator", "gradient_norm_autoencoder"} <= set(row)
    assert {"samples.png", "reconstructions.png", "interpolation.png"} <= {path.name for path in tmp_path.iterdir()}


def test_a_player_may_wait_and_has_a_rate_of_its_own(tmp_path, monkeypatch):
    turns: list[tuple[str, list[str]]] = []
    original = AAE.players

    def players(self):
        found = original(self)
        return {**found, "autoencoder": found["autoencoder"]._replace(every=3, rate=0.25)}

    def loss_of(self, player, batch, **options):
        moving = {name.split(".")[0] for name, parameter in self.named_parameters() if parameter.requires_grad}
        turns.append((player, sorted(moving)))
        return forward(self, player, batch, **options)

    forward = AAE.loss_of
    monkeypatch.setattr(AAE, "players", players)
    monkeypatch.setattr(AAE, "loss_of", loss_of)
    train(TrainConfig(**{**vars(ADVERSARIAL), "weight_decay": 0.0}), tmp_path, device="cpu")
    assert [player for player, _ in turns[:4]] == ["discriminator"] * 3 + ["autoencoder"]
    assert all(
        moving == (["critic"] if player == "discriminator" else ["decoder", "encoder"]) for player, moving in turns
    )
    rates = [saved["param_groups"][0]["lr"] for saved in state(tmp_path)["optimizers"].values()]
    assert rates[1] / rates[0] == pytest.approx(0.25 / 0.5)


def test_a_model_that_refuses_every_step_keeps_its_weights(tmp_path, monkeypatch):
    before = {}

    def accepts(self, gradient_norm):
        before.setdefault("weights", {k: v.clone() for k, v in self.state_dict().items()})
        assert float(gradient_norm) > 0
        return False

    monkeypatch.setattr(VDVAE, "accepts", accepts)
    train(SKIPPING, tmp_path, device="cpu")
    torch.testing.assert_close(state(tmp_path)["model"], before["weights"], rtol=0, atol=0)


def test_most_models_are_one_player():
    model = models.build("conv-vae-small")
    frozen = next(model.parameters()).requires_grad_(False)
    (name, player), *others = model.players().items()
    assert name == "model" and not others and player == Player(player.parameters)
    assert len(player.parameters) == len(list(model.parameters())) - 1
    assert all(parameter is not frozen for parameter in player.parameters)
    x = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    assert isinstance(model.loss_of(name, Batch(x)), Loss)


@pytest.mark.parametrize(
    ("own", "of_the_run", "used"),
    [(None, None, (0.9, 0.999)), (None, (0.0, 0.99), (0.0, 0.99)), ((0.5, 0.9), (0.0, 0.99), (0.5, 0.9))],
)
def test_adam_has_the_betas_of_the_player_else_of_the_run(own, of_the_run, used):
    player = Player([torch.nn.Parameter(torch.zeros(1))], betas=own)
    config = TrainConfig("toy-players", betas=of_the_run)
    assert training._optimizer(player, config).param_groups[0]["betas"] == used


def test_two_processes_end_where_one_does(tmp_path):
    code = """
from genkern import experiments
experiments.train(experiments.TrainConfig(**{settings}), {folder!r}, device="cpu")
"""
    script = code.format(settings=vars(ADVERSARIAL), folder=str(tmp_path / "two"))
    program = tmp_path / "program.py"
    program.write_text(script)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(models.__file__).parents[2])}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(program)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    train(ADVERSARIAL, tmp_path / "one", device="cpu")
    two, one = state(tmp_path / "two"), state(tmp_path / "one")
    torch.testing.assert_close(two["model"], one["model"], rtol=1e-3, atol=1e-5)
