"""Results as JSON: rows with the machine, the versions and the commit that they come from."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from .runner import Machine, Row, Timed
from .timing import Spread

SCHEMA = 1


@dataclass
class Results:
    provenance: dict[str, Any]
    machine: Machine
    rows: list[Row]
    machines: list[Machine] = field(default_factory=list)  # the same machine in other conditions

    def save(self, path: str | Path) -> None:
        content = {"schema": SCHEMA, **asdict(self)}
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(_rounded(content), indent=1) + "\n")

    def file_name(self, kind: str = "") -> str:
        """``<machine>-<date><kind>.json``, in letters that every file system takes."""
        machine = re.sub(r"\((R|TM)\)|processor|CPU|NVIDIA", "", self.provenance["machine"], flags=re.I)
        words = re.findall(r"[a-z0-9.]+", machine.lower())
        return "-".join([*words, self.provenance["date"].split(" ")[0]]) + f"{kind}.json"

    @classmethod
    def load(cls, path: str | Path) -> Results:
        content = json.loads(Path(path).read_text())
        if content.get("schema") != SCHEMA:
            raise ValueError(f"bench: {path} has schema {content.get('schema')!r}; this genkern reads {SCHEMA}.")
        facts = content["provenance"]
        usual: dict[str, Any] = {"threads": facts["threads"], "allocator": facts["allocator"]}
        machine, *others = [
            Machine(**{**usual, **found}) for found in [content["machine"], *content.get("machines", [])]
        ]
        rows = [_row({"threads": facts["threads"], **row}) for row in content["rows"]]
        return cls(facts, machine, rows, others)

    def conditions(self) -> list[tuple[str, int | None]]:
        """Allocators and numbers of threads of the rows, in their order; the first is the usual one."""
        return list(dict.fromkeys((row.allocator, row.threads) for row in self.rows))

    def usual(self) -> list[Row]:
        """The rows of the first condition."""
        return [row for row in self.rows if (row.allocator, row.threads) == self.conditions()[0]]


def _rounded(value: Any) -> Any:
    """Five digits are more than any timing has."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _row(content: dict[str, Any]) -> Row:
    spreads = {name: _spread(content[name]) for name in ("copy", "copies")}
    timed = {
        name: Timed(**{**entry, **{key: _spread(entry[key]) for key in ("time", "graph", "ratio")}})
        for name, entry in content["providers"].items()
    }
    return Row(**{**content, **spreads, "providers": timed})


def _spread(content: dict[str, float] | None) -> Spread | None:
    return None if content is None else Spread(**content)


def provenance(device: torch.device, allocator: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Where and how numbers came about."""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    for package in ("genkern", "numpy", "triton"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            pass
    if "genkern" not in versions:
        import genkern

        versions["genkern"] = genkern.__version__
    facts: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "device": device.type,
        "machine": machine_name(device),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "libc": " ".join(platform.libc_ver()),
        "allocator": allocator,
        "load": load(),
        "versions": versions,
        "commit": commit(),
        "arguments": list(arguments),
    }
    if device.type == "cuda":
        facts["cuda"] = torch.version.cuda
    return facts


def machine_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def load() -> list[float] | None:
    try:
        return [round(value, 2) for value in os.getloadavg()]
    except (AttributeError, OSError):
        return None


def commit() -> str | None:
    """The commit of the checkout that runs, with a + if files were changed; None for an installed package."""
    folder = Path(__file__).resolve().parent
    if not (folder.parent / ".git").exists():
        return None
    try:
        name = _git(folder, "rev-parse", "--short=10", "HEAD")
        return name + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def warn(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr)
