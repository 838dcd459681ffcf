"""A process that trains the toy model, to be killed or to be one of several: python train_toy.py OUT [NAME=VALUE ...]."""

import ast
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from genkern import experiments, models
from genkern.experiments.progress import Plain

if __name__ == "__main__":
    models.register("toy_model")
    out, *words = sys.argv[1:]
    settings = {name: ast.literal_eval(value) for name, value in (word.split("=") for word in words)}
    resume = settings.pop("resume", False)
    config = experiments.TrainConfig("toy-pixels", **settings)
    experiments.train(config, out, device="cpu", resume=resume, report=Plain())
