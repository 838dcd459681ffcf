"""A process that trains the toy model, to be killed or to be one of several.

python train_toy.py OUT [die="step 33" | die="save 28"] [NAME=VALUE ...], the names being those of `TrainConfig`
"""

import ast
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import toy_model

from genkern import experiments, models


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_in_step(number: int) -> None:
    """Killed in the forward pass of a step."""
    forward, calls = toy_model.Pixels.loss, iter(range(1, number + 1))

    def loss(*args, **kwargs):
        if next(calls) == number:
            die()
        return forward(*args, **kwargs)

    toy_model.Pixels.loss = loss


def die_in_save(number: int) -> None:
    """Killed when the checkpoint of a step is half written."""
    save = torch.save

    def half(state, path):
        save(state, path)
        if state["progress"]["step"] == number:
            os.truncate(path, os.path.getsize(path) // 2)
            die()

    torch.save = half


if __name__ == "__main__":
    models.register("toy_model")
    out, *words = sys.argv[1:]
    settings = {}
    for name, _, value in (word.partition("=") for word in words):
        if name == "die":
            where, number = value.split()
            {"step": die_in_step, "save": die_in_save}[where](int(number))
        else:
            settings[name] = ast.literal_eval(value)
    experiments.train(experiments.TrainConfig("toy-pixels", **settings), out, device="cpu")
