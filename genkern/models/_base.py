"""The protocol that all model families share: a loss to train, a way to sample, and what else a family can say."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from .._files import write_atomically, write_json
from .._names import unknown

WEIGHTS, CONFIG = "model.safetensors", "config.json"
CAPABILITIES = ("log_prob", "elbo", "energy", "score", "reconstruct")
Model = TypeVar("Model", bound="GenerativeModel")


class Batch(NamedTuple):
    """Samples ``x``, ``[B, *shape]``, and their labels ``[B]`` where there are any."""

    x: Tensor
    y: Tensor | None = None


class Loss(NamedTuple):
    """What a training step minimises, and its parts for the log; scalars, of which ``total`` has the gradient."""

    total: Tensor
    terms: dict[str, Tensor]


class Player(NamedTuple):
    """One side of an adversarial model: its parameters, and how its own optimiser moves them.

    It takes its turn in every ``every``-th step, at ``rate`` times the learning rate of the run, with Adam's ``betas``
    (None: those of the run).
    """

    parameters: list[nn.Parameter]
    every: int = 1
    rate: float = 1.0
    betas: tuple[float, float] | None = None


class GenerativeModel(nn.Module):
    """Base of all models: ``Model(config)`` with a frozen dataclass ``config``, named by ``config_class``.

    A config holds at least ``shape: tuple[int, ...]``, that of one sample, and ``levels: int | None``, the number of
    integer values of a pixel (None: continuous vectors). A family adds any of ``log_prob``, ``elbo``, ``energy``,
    ``score`` and ``reconstruct``; `capabilities` tells which, so that no caller needs a list of special cases.

    ``log_prob(x, *, key=None)`` is in nats, ``[B]``, of ``x`` as the data set holds it: for integer pixels it includes
    the dequantisation, so that bits per dimension are ``-log_prob / (D ln 2)``.
    """

    config_class: ClassVar[type]
    validates: ClassVar[bool] = True  # whether a held-out value says which weights are best; if not, the last are kept

    def __init__(self, config: Any):
        super().__init__()
        self.config = config

    def loss(self, batch: Batch | Tensor, *, key: Tensor | None = None, sample_offset: int = 0) -> Loss:
        """The training loss, a mean over the batch; the noise of sample ``i`` is drawn at ``sample_offset + i``."""
        raise NotImplementedError(f"{type(self).__name__} has no loss.")

    def sample(self, n: int, *, key: Tensor, temperature: float = 1.0) -> Tensor:
        """``n`` samples in data space, on the key's device: integer pixels when the config has levels, else floats."""
        raise NotImplementedError(f"{type(self).__name__} has no sample.")

    def initialize(self, batch: Batch | Tensor, *, key: Tensor | None = None) -> None:
        """Data-dependent initialisation from a first batch; nothing, unless the model says otherwise."""

    def players(self) -> dict[str, Player]:
        """Who takes turns in a training step, in order: one player, who has the whole model and whose loss is `loss`.

        An adversarial model names several, without a parameter in common; `loss_of` gives each its own loss.
        """
        return {"model": Player([parameter for parameter in self.parameters() if parameter.requires_grad])}

    def loss_of(self, player: str, batch: Batch | Tensor, *, key: Tensor | None = None, sample_offset: int = 0) -> Loss:
        """What a player minimises in its turn; only its own parameters have gradients then."""
        return self.loss(batch, key=key, sample_offset=sample_offset)

    skips_steps: ClassVar[bool] = False  # whether `accepts` is asked; it costs a synchronisation

    def accepts(self, gradient_norm: Tensor) -> bool:
        """Whether a training step is made, given the norm of its gradients, or skipped."""
        return True

    def pictures(self, x: Tensor, *, key: Tensor) -> dict[str, Tensor]:
        """Pictures ``[N, C, H, W]`` by name that a run leaves beside its samples, of held-out data ``x``; none here."""
        return {}

    @property
    def capabilities(self) -> frozenset[str]:
        return frozenset(name for name in CAPABILITIES if callable(getattr(type(self), name, None)))

    def save(self, folder: str | Path) -> None:
        """Writes ``model.safetensors`` and ``config.json``, each whole or not at all, whenever the process is killed.

        The weights file carries the config too and is what `load` reads, so the two can never disagree.
        """
        from_torch = _safetensors()
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        description = {"model": type(self).__name__, "config": dataclasses.asdict(self.config)}
        metadata = {"genkern": json.dumps(description)}
        with _as_os_error(f"{folder / WEIGHTS} could not be written"):
            write_atomically(folder / WEIGHTS, lambda path: from_torch.save_model(self, str(path), metadata))
        write_json(folder / CONFIG, description)

    @classmethod
    def load(cls: type[Model], folder: str | Path) -> Model:
        """The model that `save` wrote, bit for bit and in evaluation mode."""
        description = describe(folder)
        if description["model"] != cls.__name__:
            raise ValueError(f"{cls.__name__}.load: {folder} holds a {description['model']}.")
        return cls._restore(folder, config_from_dict(cls.config_class, description["config"]))

    @classmethod
    def _restore(cls: type[Model], folder: str | Path, config: Any) -> Model:
        from_torch, path = _safetensors(), str(Path(folder) / WEIGHTS)
        model = cls(config)
        saved = from_torch.load_file(path)
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name in saved:
                tensor.data = tensor.data.to(saved[name].dtype)  # weights saved as float64 come back as float64
        from_torch.load_model(model, path)
        return model.eval()


def as_batch(batch: Batch | Tensor) -> Batch:
    """A batch as it is, or samples as a batch without labels."""
    return Batch(batch) if isinstance(batch, Tensor) else batch


def labels_of_samples(
    model: str, classes: int | None, n: int, y: Tensor | int | None, device: torch.device, sample_offset: int = 0
) -> Tensor | None:
    """Labels ``[n]`` of samples: those given, or the classes in turn; None for a model without classes."""
    if classes is None:
        if y is not None:
            raise ValueError(f"{model}: y must be None, since the model has no classes; got {y}.")
        return None
    if y is None:
        return (sample_offset + torch.arange(n, device=device)) % classes
    y = torch.as_tensor(y, device=device)
    if y.dim() > 1 or (y.dim() == 1 and len(y) != n) or y.is_floating_point():
        raise ValueError(f"{model}: y must be integers, [{n}] or []; got {y.dtype} {list(y.shape)}.")
    if bool(((y < 0) | (y >= classes)).any()):
        raise ValueError(f"{model}: y must be in [0, {classes}); got {y.tolist()}.")
    return y.long().expand(n)


def describe(folder: str | Path) -> dict[str, Any]:
    """The ``{"model": ..., "config": ...}`` of a saved model."""
    _safetensors()
    from safetensors import safe_open

    path = Path(folder) / WEIGHTS
    if not path.is_file():
        raise ValueError(f"load: {folder} holds no saved model (no {WEIGHTS}).")
    with _as_os_error(f"{path} could not be read"), safe_open(str(path), framework="pt") as file:
        metadata = file.metadata() or {}
    if "genkern" not in metadata:
        raise ValueError(f"load: {path} was not written by genkern.")
    return json.loads(metadata["genkern"])


def config_from_dict(config_class: type, values: dict[str, Any]) -> Any:
    """The dataclass whose ``asdict`` went through JSON: lists become tuples again, and dicts nested dataclasses."""
    hints = typing.get_type_hints(config_class)
    fields = {field.name for field in dataclasses.fields(config_class)}
    for name in values:
        if name not in fields:
            raise unknown(f"field of {config_class.__qualname__}", name, fields)
    return config_class(**{name: _revive(hints[name], value) for name, value in values.items()})


def _revive(hint: Any, value: Any) -> Any:
    if isinstance(value, dict):
        for kind in (hint, *_union_members(hint)):
            if isinstance(kind, type) and dataclasses.is_dataclass(kind):
                return config_from_dict(kind, value)
    return tuple(_revive(None, item) for item in value) if isinstance(value, list) else value


def fits(hint: Any, value: Any) -> bool:
    """Whether a value is of the type that a field of a config is declared to have."""
    members = typing.get_args(hint)
    if _union_members(hint):
        return any(fits(member, value) for member in members)
    if typing.get_origin(hint) is tuple:
        each = members[:1] * len(value) if members[-1] is ... and isinstance(value, tuple | list) else members
        return isinstance(value, tuple | list) and len(value) == len(each) and all(map(fits, each, value))
    if hint in (int, float):
        return isinstance(value, int if hint is int else int | float) and not isinstance(value, bool)
    return isinstance(value, hint) if isinstance(hint, type) else True


def _union_members(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else ()


@contextmanager
def _as_os_error(what: str) -> Iterator[None]:
    """A full disk or a broken file as the error that it is; safetensors has one of its own, derived from none."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise OSError(f"{what}: {error}") from error


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError:
        raise ImportError("saving and loading models needs safetensors: pip install 'genkern[train]'") from None
    return safetensors.torch
