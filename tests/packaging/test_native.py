"""csrc/native.py: what it finds, what it says, and when it compiles."""

import importlib.machinery
import importlib.util
import os
import shlex
import sys
from pathlib import Path

import pytest
from tree import ROOT, run

spec = importlib.util.spec_from_file_location("native", ROOT / "csrc/native.py")
native = importlib.util.module_from_spec(spec)
sys.modules["native"] = native  # dataclasses look their module up
spec.loader.exec_module(native)


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for name in ("GENKERN_BUILD", "GENKERN_CUDA_ARCHS", "TORCH_CUDA_ARCH_LIST", "MAX_JOBS", "CXX", "CUDA_HOME"):
        monkeypatch.delenv(name, raising=False)


def fake_torch(monkeypatch, folder: Path, version: str, headers: bool = True):
    (folder / "torch").mkdir()
    (folder / "torch/version.py").write_text(f"__version__ = {version!r}\n")
    if headers:
        (folder / "torch/include/torch/csrc/stable").mkdir(parents=True)
        (folder / "torch/include/torch/csrc/stable/library.h").touch()
        (folder / "torch/include/pybind11").mkdir()
    spec = importlib.machinery.ModuleSpec("torch", None)
    spec.submodule_search_locations = [str(folder / "torch")]
    monkeypatch.setattr(native.importlib.util, "find_spec", lambda name: spec)


# -- what is missing, and what to type ---------------------------------------------------------------------------------


def absent_torch(monkeypatch, folder):
    monkeypatch.setattr(native.importlib.util, "find_spec", lambda name: None)


def old_torch(monkeypatch, folder):
    fake_torch(monkeypatch, folder, "2.9.1+cu128")


def torch_without_headers(monkeypatch, folder):
    fake_torch(monkeypatch, folder, "2.13.0", headers=False)


def absent_compiler(monkeypatch, folder):
    monkeypatch.setattr(native.shutil, "which", lambda name, path=None: None)


def absent_python_headers(monkeypatch, folder):
    monkeypatch.setattr(native.sysconfig, "get_paths", lambda: {"include": str(folder)})


ABSENT = [
    (absent_torch, "pip install --no-build-isolation ."),
    (old_torch, "the kernels need torch >= 2.10, found 2.9.1"),
    (torch_without_headers, "without its C[+][+] headers"),
    (absent_compiler, "apt-get install g[+][+]"),
    (absent_python_headers, "apt-get install python3[.][0-9]+-dev"),
]


@pytest.mark.parametrize(("take_away", "text"), ABSENT, ids=lambda value: getattr(value, "__name__", ""))
def test_what_is_missing_is_named_with_what_to_type(take_away, text, monkeypatch, tmp_path):
    take_away(monkeypatch, tmp_path)
    monkeypatch.setenv("GENKERN_BUILD", "cpu")
    with pytest.raises(SystemExit, match=text) as stopped:
        native.main(tmp_path / "package")
    assert "GENKERN_BUILD=none" in str(stopped.value)


@pytest.mark.parametrize(("take_away", "text"), ABSENT, ids=lambda value: getattr(value, "__name__", ""))
def test_auto_goes_on_without_kernels_and_says_why(take_away, text, monkeypatch, tmp_path, capsys):
    take_away(monkeypatch, tmp_path)
    assert native.main(tmp_path / "package") == []
    assert "going on without kernels" in capsys.readouterr().err


def test_cuda_without_nvcc_stops_and_auto_does_not(monkeypatch, tmp_path):
    found = native.shutil.which
    monkeypatch.setattr(native.shutil, "which", lambda name, path=None: None if name == "nvcc" else found(name))
    with pytest.raises(native.Missing, match="set CUDA_HOME"):
        native.find_nvcc()


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("GENKERN_BUILD", "gpu", "must be auto, cpu, cuda or none, got 'gpu'"),
        ("MAX_JOBS", "many", "must be a positive integer, got 'many'"),
        ("CXX", "no-such-compiler", "CXX is 'no-such-compiler', which is not a command"),
    ],
)
def test_a_wrong_setting_stops_in_one_line(name, value, text, tmp_path):
    code = f"import native; from pathlib import Path; native.main(Path({str(tmp_path / 'package')!r}))"
    done = run([sys.executable, "-c", code], ROOT / "csrc", **{name: value})
    assert done.returncode == 1 and text in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "torchs", "archs"),
    [
        (None, None, ["80", "90+PTX"]),
        ("80;90a", None, ["80", "90a"]),
        (None, "8.0;9.0+PTX", ["80", "90+PTX"]),
        (None, "8.0 12.0", ["80", "120"]),
        ("100", "8.0", ["100"]),
    ],
)
def test_cuda_architectures_are_read_from_either_variable(ours, torchs, archs, monkeypatch):
    for name, value in (("GENKERN_CUDA_ARCHS", ours), ("TORCH_CUDA_ARCH_LIST", torchs)):
        if value is not None:
            monkeypatch.setenv(name, value)
    assert native.cuda_archs() == archs


def test_an_architecture_that_is_no_number_is_refused(monkeypatch):
    monkeypatch.setenv("GENKERN_CUDA_ARCHS", "hopper")
    with pytest.raises(native.Failed, match="GENKERN_CUDA_ARCHS must look like .* got 'hopper'"):
        native.cuda_archs()


def test_max_jobs_and_cxx_are_respected(monkeypatch):
    monkeypatch.setenv("MAX_JOBS", "3")
    monkeypatch.setenv("CXX", f"{shlex.quote(sys.executable)} -X utf8")
    assert native.jobs() == 3
    assert native.find_cxx() == [sys.executable, "-X", "utf8"]


# -- when a step runs --------------------------------------------------------------------------------------------------

COMPILE = (
    'echo ran >> log; cat source.c "header one.h" > out.o; printf "out.o: source.c \\\\\\n header\\\\ one.h\\n" > out.d'
)


@pytest.fixture
def compile_once(tmp_path, monkeypatch):
    monkeypatch.setattr(native, "ROOT", tmp_path)
    (tmp_path / "source.c").write_text("source")
    (tmp_path / "header one.h").write_text("header")

    def step(flags: str = "", version: str = "1") -> int:
        """Runs the step; the number of times that it has run so far."""
        native.Steps(tmp_path, version).run(["sh", "-c", COMPILE + flags], Path("out.o"))
        return len((tmp_path / "log").read_text().split())

    return step


def test_a_second_build_does_nothing_even_when_files_are_touched(compile_once, tmp_path):
    assert compile_once() == compile_once() == 1
    os.utime(tmp_path / "source.c")
    assert compile_once() == 1


def test_a_changed_header_command_or_version_builds_again(compile_once, tmp_path):
    assert compile_once() == 1
    (tmp_path / "header one.h").write_text("changed")
    assert compile_once() == 2
    assert compile_once(flags="; true") == 3
    assert compile_once(flags="; true", version="2") == 4
    (tmp_path / "out.o").unlink()
    assert compile_once(flags="; true", version="2") == 5


def test_a_failed_step_is_reported_with_its_output_and_runs_again(compile_once):
    for _ in range(2):
        with pytest.raises(native.Failed, match="this command failed:(.|\n)*out of luck"):
            compile_once(flags="; echo out of luck; false")


def test_what_an_earlier_build_left_is_removed(monkeypatch, tmp_path):
    stale = tmp_path / "_cuda.so"
    stale.touch()
    monkeypatch.setenv("GENKERN_BUILD", "none")
    assert native.build(tmp_path) == [] and not stale.exists()
