"""Copies of the source tree, wheels made from them, and Python processes that see nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]


def run(command: list[str | Path], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The finished process; nothing of this one's PYTHONPATH reaches it."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONWARNINGS")}
    return subprocess.run(command, cwd=folder, env=inherited | environment, capture_output=True, text=True)


def succeed(command: list[str | Path], folder: Path, **environment: str) -> str:
    done = run(command, folder, **environment)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def copy_tree(to: Path) -> Path:
    """The tree as a checkout has it, with the object files of this one, so that little is compiled again."""
    skip = shutil.ignore_patterns(
        ".*", "runs", "dist", "*.egg-info", "__pycache__", "*.so", "*.whl", "lib.*", "bdist.*", "results"
    )
    shutil.copytree(ROOT, to, ignore=skip, symlinks=True)
    return to


def make_wheel(tree: Path, to: Path, **environment: str) -> Path:
    succeed([*PIP, "wheel", "--no-build-isolation", "--no-deps", "--no-index", "-w", to, "."], tree, **environment)
    (wheel,) = to.glob("*.whl")
    return wheel


def install(wheel: Path, to: Path) -> Path:
    succeed([*PIP, "install", "--no-deps", "--no-index", "--target", to, wheel], to.parent)
    return to


def python(installed: Path, code: str) -> str:
    """What a program prints that finds genkern in `installed`, and the source tree nowhere."""
    start = f"""
import sys
sys.path.insert(0, {str(installed)!r})
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder)]  # of this tree
"""
    return succeed([sys.executable, "-I", "-c", start + code], installed)
