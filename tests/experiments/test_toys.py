"""Density estimates against what no density can beat: the entropy of the toy that they were trained on."""

import pytest

from genkern.experiments import TrainConfig, train


@pytest.mark.parametrize("toy", ["eight-gaussians", "checkerboard", "two-moons"])
def test_realnvp_comes_near_the_entropy_and_never_below(toy, tmp_path):
    config = TrainConfig(model="realnvp-2d", data=toy, steps=1000, batch_size=512, seed=0)
    summary = train(config, tmp_path / "run", device="cpu")
    # the test part is a sample: its own exact density is what a perfect model scores on it
    exact = summary["baselines"]["exact density on the test part"]
    assert exact <= summary["test"] <= exact + 0.3
    assert summary["test"] >= summary["baselines"]["exact entropy"]


@pytest.mark.parametrize("toy", ["eight-gaussians"])
def test_a_residual_flow_comes_near_the_entropy_and_never_below(toy, tmp_path):
    config = TrainConfig(
        model="residual-flow-2d",
        data=toy,
        steps=1000,
        batch_size=512,
        seed=0,
        evaluate_every=1000,
        checkpoint_every=1000,
    )
    summary = train(config, tmp_path / "run", device="cpu")
    exact = summary["baselines"]["exact density on the test part"]
    assert exact <= summary["test"] <= exact + 0.3
    assert summary["test"] >= summary["baselines"]["exact entropy"]
