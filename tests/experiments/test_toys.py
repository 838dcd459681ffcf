"""Density estimates against what no density can beat: the entropy of the toy that they were trained on."""

import pytest

from genkern.experiments import TrainConfig, suggested, train

TOYS = ["eight-gaussians", "checkerboard", "two-moons"]


def assert_between_the_entropy_and(slack: float, summary: dict) -> None:
    # the test part is a sample: its own exact density is what a perfect model scores on it
    exact = summary["baselines"]["exact density on the test part"]
    assert exact <= summary["test"] <= exact + slack
    assert summary["test"] >= summary["baselines"]["exact entropy"]


@pytest.mark.parametrize(
    ("model", "toy", "steps"),
    [
        ("ffjord-2d", "checkerboard", None),  # None: the preset's own recipe; the other toys need less of it
        ("ffjord-2d", "two-moons", 250),
        ("ffjord-2d", "eight-gaussians", 200),
        ("residual-flow-2d", "checkerboard", None),
        ("residual-flow-2d", "two-moons", 300),
        ("residual-flow-2d", "eight-gaussians", 200),
    ],
)
def test_free_form_flows_come_near_the_entropy_and_never_below(model, toy, steps, tmp_path):
    # the pictures of a run need no more digits than this from the solver
    options = {"rtol": 1e-3, "atol": 1e-3} if model == "ffjord-2d" else {}
    config = suggested(model, toy, steps=steps, options=options, evaluate_every=1000, checkpoint_every=1000)
    summary = train(config, tmp_path / "run", device="cpu")
    assert_between_the_entropy_and(0.3, summary)
    assert summary["reconstruction"]["rmse"] < 0.01


@pytest.mark.parametrize("toy", TOYS)
def test_realnvp_comes_near_the_entropy_and_never_below(toy, tmp_path):
    config = TrainConfig(model="realnvp-2d", data=toy, steps=1000, batch_size=512, seed=0)
    assert_between_the_entropy_and(0.3, train(config, tmp_path / "run", device="cpu"))


@pytest.mark.parametrize("toy", TOYS)
@pytest.mark.parametrize("model", ["nsf-2d", "nsf-ar-2d"])
def test_nsf_comes_nearer_in_fewer_steps_and_never_below(model, toy, tmp_path):
    config = TrainConfig(model=model, data=toy, steps=600, batch_size=512, seed=0)
    assert_between_the_entropy_and(0.15, train(config, tmp_path / "run", device="cpu"))


def test_the_command_of_the_readme_comes_near_the_entropy_in_a_minute(tmp_path):
    """``genkern train nsf --data checkerboard``, of which half of the steps are enough."""
    summary = train(suggested("nsf", "checkerboard", steps=750, evaluate_every=750), tmp_path / "run", device="cpu")
    assert_between_the_entropy_and(0.15, summary)
    assert (tmp_path / "run" / "samples.png").stat().st_size > 10_000
