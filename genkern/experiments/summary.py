"""The end of a run: how good the best model is on data that nothing has seen, beside what knows less."""

from __future__ import annotations

from typing import Any

import torch

from .. import random
from .._files import write_json
from ..models import GenerativeModel
from . import energies, figures, metrics
from .data import DataSet
from .run import Run

TEST, SAMPLES, ENERGIES = 3, 4, 5  # folded into the run's key
N_SAMPLES, N_POINTS = 64, 5000


def baselines(data_set: DataSet) -> dict[str, float]:
    """Held-out values of simple models, fitted to everything but the test part; for toys the exact entropy too."""
    fitted = torch.cat([data_set.train, data_set.validation])
    if data_set.levels is not None:
        return {
            "uniform": metrics.uniform_bits_per_dim(data_set.levels),
            "histogram": metrics.histogram_bits_per_dim(fitted, data_set.test, data_set.levels),
        }
    known = {"gaussian": metrics.gaussian_nats(fitted, data_set.test)}
    if data_set.entropy is not None:
        known["exact entropy"] = data_set.entropy
    if data_set.log_density is not None:
        known["exact density on the test part"] = -float(data_set.log_density(data_set.test).mean())
    return known


def summarize(
    model: GenerativeModel, data_set: DataSet, run: Run, facts: dict[str, Any], device: torch.device
) -> dict[str, Any]:
    """Writes ``summary.json``, ``samples.png``, ``curves.png``, and the pictures that the model has of its own."""
    model = model.to(device).eval()
    seed = (run.read_config() or {}).get("seed", 0)
    root = random.key(seed, device=device)
    unit = metrics.unit(model)
    summary: dict[str, Any] = {
        "model": type(model).__name__,
        "data": data_set.name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        **facts,
        "unit": unit,
        "test": metrics.held_out(model, data_set.test, key=random.fold_in(root, TEST)),
        "baselines": baselines(data_set) if unit != "loss" else {},
    }
    if "reconstruct" in model.capabilities:
        torch.manual_seed(seed)  # its noise may be the default generator's: the same after a run as after a resumed one
        summary["reconstruction"] = metrics.reconstruction_error(model, data_set.test)
    if "energy" in model.capabilities:
        key = random.fold_in(root, ENERGIES)
        summary["energies"] = energies.report(model, data_set, key=key, picture=run.folder / "energies.png")
    write_json(run.summary, summary)
    save_samples(run.folder / "samples.png", model, random.fold_in(root, SAMPLES), data_set=data_set)
    held_out = metrics.like(model, data_set.test[:N_SAMPLES])
    for name, pictures in model.pictures(held_out, key=random.fold_in(root, SAMPLES)).items():
        figures.save_grid(run.folder / f"{name}.png", pictures, model.config.levels)
    drawn = {name: value for name, value in summary["baselines"].items() if "test part" not in name}
    figures.save_curves(run.folder / "curves.png", run.rows(), unit, drawn)
    return summary


@torch.no_grad()
def save_samples(
    path: Any,
    model: GenerativeModel,
    key: torch.Tensor,
    *,
    n: int | None = None,
    temperature: float = 1.0,
    data_set: DataSet | None = None,
    **conditions: Any,
) -> None:
    """A grid of pictures; points in the plane beside the data they should look like.

    Conditions (``y=`` of a model with classes) are handed to the model's ``sample``.
    """
    config = model.config
    if config.levels is not None and len(config.shape) == 3:
        pictures = model.sample(n or N_SAMPLES, key=key, temperature=temperature, **conditions)
        figures.save_grid(path, pictures, config.levels)
    elif tuple(config.shape) == (2,) and data_set is not None:
        points = model.sample(n or N_POINTS, key=key, temperature=temperature, **conditions)
        log_prob = (lambda x: model.log_prob(metrics.like(model, x))) if "log_prob" in model.capabilities else None  # type: ignore[operator]
        figures.save_density(path, points, data_set.test, log_prob)
    else:
        raise ValueError(f"there is no picture of samples of shape {list(config.shape)}; save an array (.npy) instead.")
