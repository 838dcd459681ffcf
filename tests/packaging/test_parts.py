"""The house: one op, one name, in every tree; no file grows beyond what one reads in a sitting."""

import subprocess
import sys

import pytest
from tree import ROOT

OPS = sorted(path.parent.name for path in (ROOT / "genkern/ops").glob("*/__init__.py"))
LIMIT = 500


def defines_a_kernel(op: str) -> bool:
    return any("define_op(" in path.read_text() for path in (ROOT / "genkern/ops" / op).glob("*.py"))


@pytest.mark.parametrize("op", OPS)
def test_every_op_has_all_its_parts(op):
    parts = ["genkern/ops/{op}/reference.py", "tests/ops/test_{op}.py", "bench/workloads/{op}.py"]
    if defines_a_kernel(op):
        parts += ["csrc/ops/{op}"]
    if defines_a_kernel(op) and not list((ROOT / "csrc/ops" / op).glob("*.cu")):
        parts += ["genkern/ops/{op}/triton.py"]
    if (ROOT / "genkern/ops" / op / "triton.py").exists():
        parts += ["tests/triton/test_{op}.py"]
    missing = [part for part in (part.format(op=op) for part in parts) if not (ROOT / part).exists()]
    assert not missing
    assert f"`{op}`" in (ROOT / "README.md").read_text(), "README.md has no row for it"


def test_every_kernel_belongs_to_an_op():
    assert {path.name for path in (ROOT / "csrc/ops").iterdir() if path.is_dir()} <= set(OPS)


def test_a_definition_imports_nothing_but_torch():
    for path in (ROOT / "genkern/ops").glob("*/reference.py"):
        lines = [line for line in path.read_text().splitlines() if line.startswith(("import ", "from "))]
        imported = {line.split()[1].split(".")[0] for line in lines}
        assert imported <= {"torch", *sys.stdlib_module_names}, path


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return listed.stdout.splitlines()


def test_no_file_is_longer_than_a_sitting():
    code = [name for name in tracked() if name.endswith((".py", ".h", ".cpp", ".cu"))]
    lengths = {name: (ROOT / name).read_text().count("\n") for name in code if (ROOT / name).exists()}
    assert not {name: length for name, length in lengths.items() if length > LIMIT}


def test_no_folder_is_a_drawer():
    names = {part.removesuffix(".py") for name in tracked() for part in name.split("/")}
    assert not names & {"utils", "util", "helpers", "helper", "misc", "common.py"}
