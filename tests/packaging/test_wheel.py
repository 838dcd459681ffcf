import os
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
from filelock import FileLock
from tree import ROOT, copy_tree, install, make_wheel, python

USE = """
import warnings, torch
warnings.simplefilter("always")
with warnings.catch_warnings(record=True) as caught:
    from genkern.ops import affine_coupling
    import genkern
    x, params = torch.randn(8, 6, 4, 4, requires_grad=True), torch.randn(8, 6, 4, 4)
    for _ in range(3):
        y, log_det = affine_coupling(x, params)
    (y.sum() + log_det.sum()).backward()
expected, _ = affine_coupling(x, params, impl="torch")
torch.testing.assert_close(y, expected)
print(genkern.__file__)
print(genkern.info()["ops"]["affine_coupling"]["cpu"]["backend"])
print(*[warning.message for warning in caught if "genkern" in str(warning.message)], sep="\\n")
"""


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, made once for all test processes."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "wheel-of-the-tree"
    folder.mkdir(exist_ok=True)
    with FileLock(f"{folder}.lock"):
        found = list(folder.glob("*.whl"))
        return found[0] if found else make_wheel(copy_tree(folder / "tree"), folder)


@pytest.fixture(scope="session")
def names(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_holds_every_module_and_nothing_else(names):
    wanted = {str(path.relative_to(ROOT)) for path in (ROOT / "genkern").rglob("*.py")}
    wanted |= {f"genkern/bench/{path.relative_to(ROOT / 'bench')}" for path in (ROOT / "bench").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == wanted
    assert "genkern/py.typed" in names
    assert not [name for name in names if name.startswith(("tests", "bench", "docs", "csrc"))]


def test_the_wheel_holds_the_libraries_that_this_machine_can_build(names):
    libraries = {name for name in names if name.endswith(".so")}
    assert any(re.fullmatch(r"genkern/_C\..*\.so", name) for name in libraries)
    assert ("genkern/_cuda.so" in libraries) == (ROOT / "genkern/_cuda.so").exists()


def test_the_metadata_names_torch_and_the_readme(wheel):
    archive = zipfile.ZipFile(wheel)
    (metadata,) = [name for name in archive.namelist() if name.endswith("METADATA")]
    text = archive.read(metadata).decode()
    assert "Requires-Dist: torch>=2.10" in text
    assert "License-Expression: Apache-2.0" in text
    assert (ROOT / "README.md").read_text().strip() in text


def test_an_installed_wheel_runs_its_kernels_without_a_word(wheel, tmp_path):
    file, backend, warned = python(install(wheel, tmp_path / "site"), USE).split("\n", 2)
    assert file.startswith(str(tmp_path)) and backend == "c++" and not warned.strip()


def test_the_libraries_need_nothing_of_torch_but_its_stable_interface(wheel, tmp_path):
    if shutil.which("nm") is None:
        pytest.skip("nm (binutils) is not installed")
    zipfile.ZipFile(wheel).extractall(tmp_path)
    for library in (tmp_path / "genkern").glob("*.so"):
        listed = subprocess.run(["nm", "-DC", "--undefined-only", library], capture_output=True, text=True, check=True)
        symbols = [line.split(maxsplit=1)[1] for line in listed.stdout.splitlines()]
        assert any(symbol.startswith("aoti_torch_") for symbol in symbols), library
        assert not [symbol for symbol in symbols if re.search(r"\b(c10|at|torch|caffe2)::", symbol)], library


def test_a_pure_python_install_runs_the_reference_and_says_so_once(tmp_path):
    pure = make_wheel(copy_tree(tmp_path / "tree"), tmp_path / "wheel", GENKERN_BUILD="none")
    assert pure.name.endswith("-py3-none-any.whl")
    _, backend, warned = python(install(pure, tmp_path / "site"), USE).split("\n", 2)
    assert backend == "torch"
    assert len(warned.strip().splitlines()) == 1
    assert "genkern runs on its PyTorch reference" in warned and "pip install --no-build-isolation" in warned
