"""Generative models by name.

Each model is one file that defines ``Config`` (a frozen dataclass), the model and ``PRESETS: dict[str, Config]``;
adding a model is writing that file and adding its path to `MODULES`. It may define ``RECIPES``, how presets are best
trained: by their names, fields of `genkern.experiments.TrainConfig`.
"""

from __future__ import annotations

import dataclasses
import importlib
import typing
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from .._names import unknown
from ._base import Batch, GenerativeModel, Loss, Player, as_batch, config_from_dict, describe, fits

__all__ = ["Batch", "GenerativeModel", "Loss", "Player", "as_batch", "build", "load", "presets", "recipe", "register"]

MODULES: list[str] = [
    "genkern.models.flows.nice",
    "genkern.models.flows.realnvp",
    "genkern.models.flows.glow",
    "genkern.models.flows.ffjord",
    "genkern.models.flows.nsf",
    "genkern.models.flows.maf",
    "genkern.models.flows.iaf",
    "genkern.models.flows.emerging",
    "genkern.models.flows.planar_flow",
    "genkern.models.flows.iresnet",
    "genkern.models.flows.residual_flow",
    "genkern.models.autoregressive.made",
    "genkern.models.autoregressive.pixelcnn",
    "genkern.models.autoregressive.gated_pixelcnn",
    "genkern.models.autoregressive.pixelcnn_pp",
    "genkern.models.autoregressive.pixeliqn",
    "genkern.models.autoregressive.pixelrnn",
    "genkern.models.autoregressive.sparse_transformer",
    "genkern.models.vae.conv_vae",
    "genkern.models.vae.vlae",
    "genkern.models.vae.vdvae",
    "genkern.models.vae.aae",
    "genkern.models.energy.ddpm",
    "genkern.models.energy.improved_ddpm",
    "genkern.models.energy.edm",
    "genkern.models.energy.ddpm_pp_continuous",
    "genkern.models.energy.igebm",
    "genkern.models.energy.jem",
    "genkern.models.energy.flow_contrastive",
    "genkern.models.energy.ncsn",
    "genkern.models.energy.unit_ddpm",
    "genkern.models.anomaly.anoddpm",
    "genkern.models.vae.vqvae",
    "genkern.models.vae.vqvae2",
]


class Preset(NamedTuple):
    """A named config and the model that it builds."""

    model: type[GenerativeModel]
    config: Any


def register(module: str) -> None:
    """Adds a ``module`` of your own, by its dotted path: its presets can be built, trained and loaded by name."""
    if module not in MODULES:
        MODULES.append(module)


def presets() -> dict[str, Preset]:
    """All presets by name, in the order of the registry."""
    found: dict[str, Preset] = {}
    for path in MODULES:
        module = importlib.import_module(path)
        for name, config in module.PRESETS.items():
            if name in found:
                raise ValueError(f"models: the preset {name!r} of {path} is defined already.")
            found[name] = Preset(_model_of(module, type(config)), config)
    return found


def recipe(name: str) -> dict[str, Any]:
    """How a preset is best trained.

    Args:
        name: of the preset.

    Returns:
        Fields of `genkern.experiments.TrainConfig`, which has defaults for the others.
    """
    found: dict[str, Any] = {}
    for path in MODULES:
        found |= getattr(importlib.import_module(path), "RECIPES", {}).get(name, {})
    return found


def build(name: str, **overrides: Any) -> GenerativeModel:
    """A new model from a preset.

    Args:
        name: of the preset; `presets` has them all.
        overrides: fields of its config to replace; ``shape`` and ``levels`` are those of the data.

    Raises:
        ValueError: for an unknown preset or field, with the nearest right one; for a value of another type than the
            field's, or one of which no model can be made.

    >>> build("glow-small", hidden=32).config.hidden
    32
    """
    known = presets()
    if name not in known:
        raise unknown("model", name, known)
    model, config = known[name]
    hints = typing.get_type_hints(type(config))
    fields = {field.name for field in dataclasses.fields(config)}
    for field, value in list(overrides.items()):
        if field not in fields:
            raise unknown(f"option of {name}", field, fields)
        if not fits(hints[field], value):
            wanted = hints[field].__name__ if hints[field] in (bool, int, float, str) else hints[field]
            raise ValueError(f"{name}: {field} must be {wanted}; got {value!r}.")
        if isinstance(value, list):
            overrides[field] = tuple(value)
    try:
        return model(dataclasses.replace(config, **overrides))
    except (RuntimeError, TypeError, ArithmeticError) as error:  # of layers that were asked for -3 channels
        if not overrides:
            raise
        changed = ", ".join(f"{field}={value!r}" for field, value in overrides.items())
        raise ValueError(f"{name} cannot be built with {changed}: {error}") from error


def load(folder: str | Path) -> GenerativeModel:
    """The model that ``model.save(folder)`` wrote, whichever it was, in evaluation mode."""
    description = describe(folder)
    models = {model.__name__: model for path in MODULES for model in _models(importlib.import_module(path))}
    if description["model"] not in models:
        raise unknown(f"model in {folder}:", description["model"], models)
    model = models[description["model"]]
    return model._restore(folder, config_from_dict(model.config_class, description["config"]))


def _models(module: ModuleType) -> list[type[GenerativeModel]]:
    """The models that a module defines (not those that it imports)."""
    members = vars(module).values()
    return [
        member
        for member in members
        if isinstance(member, type) and issubclass(member, GenerativeModel) and member.__module__ == module.__name__
    ]


def _model_of(module: ModuleType, config_class: type) -> type[GenerativeModel]:
    for model in _models(module):
        if getattr(model, "config_class", None) is config_class:
            return model
    raise TypeError(f"models: {module.__name__} has no model whose config_class is {config_class.__name__}.")
