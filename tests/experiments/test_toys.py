"""Density estimates against what no density can beat: the entropy of the toy that they were trained on."""

import pytest

from genkern.experiments import TrainConfig, train

TOYS = ["eight-gaussians", "checkerboard", "two-moons"]


def assert_between_the_entropy_and(slack: float, summary: dict) -> None:
    # the test part is a sample: its own exact density is what a perfect model scores on it
    exact = summary["baselines"]["exact density on the test part"]
    assert exact <= summary["test"] <= exact + slack
    assert summary["test"] >= summary["baselines"]["exact entropy"]


def test_ffjord_comes_near_the_entropy_of_the_hardest_toy_and_never_below(tmp_path):
    config = TrainConfig(
        "ffjord-2d", data="checkerboard", steps=800, batch_size=256, lr=1e-2, ema=0.99, evaluate_every=800
    )
    summary = train(config, tmp_path / "run", device="cpu")
    exact = summary["baselines"]["exact density on the test part"]
    assert exact <= summary["test"] <= exact + 0.3
    assert summary["reconstruction"]["max"] < 0.05


@pytest.mark.parametrize("toy", TOYS)
def test_realnvp_comes_near_the_entropy_and_never_below(toy, tmp_path):
    config = TrainConfig(model="realnvp-2d", data=toy, steps=1000, batch_size=512, seed=0)
    assert_between_the_entropy_and(0.3, train(config, tmp_path / "run", device="cpu"))


@pytest.mark.parametrize("toy", TOYS)
@pytest.mark.parametrize("model", ["nsf-2d", "nsf-ar-2d"])
def test_nsf_comes_nearer_in_fewer_steps_and_never_below(model, toy, tmp_path):
    config = TrainConfig(model=model, data=toy, steps=600, batch_size=512, seed=0)
    assert_between_the_entropy_and(0.15, train(config, tmp_path / "run", device="cpu"))
