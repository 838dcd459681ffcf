"""The folder of a run: what it holds, when it may be written, and how it survives being killed."""

from __future__ import annotations

import dataclasses
import json
import platform
from pathlib import Path
from typing import Any

import torch

from .._files import write_atomically, write_json
from .config import TrainConfig


class Run:
    """``config.json``, ``metrics.jsonl``, ``checkpoint.pt``, ``best/`` (a saved model), ``summary.json``, pictures."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.config, self.metrics, self.checkpoint, self.best, self.summary = (
            self.folder / name for name in ("config.json", "metrics.jsonl", "checkpoint.pt", "best", "summary.json")
        )

    # -- opening ------------------------------------------------------------------------------------------------

    def check(self, config: TrainConfig, resume: bool) -> None:
        """Raises where writing here would overwrite something that is not this run, or that was not to be resumed."""
        if not self.folder.exists():
            return
        if not self.folder.is_dir():
            raise FileExistsError(f"{self.folder} is a file; give another folder by --out.")
        if not any(self.folder.iterdir()):
            return
        written = self.read_config()
        if written is None:
            raise FileExistsError(f"{self.folder} holds files that are not a run of genkern; give another --out.")
        wanted = _jsonable(config)
        different = [name for name in {**written, **wanted} if written.get(name) != wanted.get(name)]
        if different:
            name = different[0]
            raise FileExistsError(
                f"{self.folder} holds another run ({name} is {written.get(name)!r} there, {wanted.get(name)!r} here); "
                "give another --out."
            )
        if not resume:
            raise FileExistsError(f"{self.folder} holds this run already; go on with --resume, or give another --out.")

    def read_config(self) -> dict[str, Any] | None:
        """The training config of the run that is here, or None."""
        try:
            content = json.loads(self.config.read_text(encoding="utf-8"))
            return content["train"]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def create(self, config: TrainConfig, model_config: Any) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.rglob(".*.partial*"):
            leftover.unlink()  # of a write during which the run was killed
        if not self.config.exists():
            versions = {"torch": str(torch.__version__), "python": platform.python_version()}
            described = {"train": _jsonable(config), "model": _jsonable(model_config), "versions": versions}
            write_json(self.config, described)

    # -- metrics ------------------------------------------------------------------------------------------------

    def log(self, step: int, **values: float) -> None:
        with open(self.metrics, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def rows(self) -> list[dict[str, float]]:
        """The lines of ``metrics.jsonl``, without one that a kill left unfinished."""
        rows = []
        for line in self.metrics.read_text(encoding="utf-8").splitlines() if self.metrics.exists() else []:
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
        return rows

    def rewind(self, step: int) -> None:
        """Forgets the lines of steps that will be made again."""
        text = "".join(json.dumps(row) + "\n" for row in self.rows() if row["step"] <= step)
        write_atomically(self.metrics, lambda path: path.write_text(text, encoding="utf-8"))

    # -- state --------------------------------------------------------------------------------------------------

    def save_state(self, state: dict[str, Any]) -> None:
        """Replaces the checkpoint once the new one is complete and on the disk."""
        try:
            write_atomically(self.checkpoint, lambda path: torch.save(state, path))
        except RuntimeError as error:  # what torch makes of a full disk
            raise OSError(f"{self.checkpoint} could not be written: {str(error).splitlines()[0]}") from error

    def load_state(self) -> dict[str, Any] | None:
        if not self.checkpoint.exists():
            return None
        try:
            return torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever an unpickler makes of a broken file
            raise OSError(f"{self.checkpoint} could not be read, so the run cannot go on: {error!r}") from error


def _jsonable(config: Any) -> Any:
    return json.loads(json.dumps(dataclasses.asdict(config)))
