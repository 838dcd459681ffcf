"""Compiles and links genkern's native libraries; run it (`python csrc/native.py`) to build them in place.

C++ kernels wherever there are torch and a C++ compiler, CUDA kernels wherever there is nvcc. Every file is compiled
only when it, a header that it includes, or the command has changed. Settings, from the environment:

    GENKERN_BUILD        auto (default): what can be built; cpu, cuda: that, or fail; none: pure Python
    GENKERN_CUDA_ARCHS   such as "80;90+PTX", the default; TORCH_CUDA_ARCH_LIST="8.0;9.0+PTX" is read where it is unset
    GENKERN_WERROR       1: warnings are errors
    CXX, CUDA_HOME       the C++ compiler, and the folder of bin/nvcc
    MAX_JOBS             compilers at a time
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OLDEST_TORCH = (2, 10)
STABLE_ABI = [
    "-DTORCH_TARGET_VERSION=0x020a000000000000",
    "-DTORCH_STABLE_ONLY",
]  # one build serves every torch >= 2.10
CXX_FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fopenmp-simd", "-fno-math-errno",
             "-fno-trapping-math", "-Wall", "-Wextra", "-Wno-psabi"]  # fmt: skip
NVCC_FLAGS = ["-std=c++17", "-O3", "-Xcompiler", "-fPIC,-fvisibility=hidden", "-DUSE_CUDA"]
EXACT = ["-ffp-contract=off"]  # random streams and fields: the same bits on every machine
EXACT_OPS = ("random", "simplex_noise")
PURE_PYTHON = "or set GENKERN_BUILD=none for a pure-Python install, which runs on the PyTorch reference."


class Failed(Exception):
    """A wrong setting, or a compiler that said no: the build stops."""


class Missing(Failed):
    """What is not on this machine, and what to type: GENKERN_BUILD=auto goes on without it."""


# -- what there is to build with ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Torch:
    version: str
    includes: list[str]
    libraries: str


def find_torch() -> Torch:
    """Headers and libraries of the installed torch, which is not imported: a build with nothing to do is instant."""
    found = importlib.util.find_spec("torch")
    if found is None or not found.submodule_search_locations:
        raise Missing(
            "torch is not installed here, so no kernels can be built. Install it first, then build without isolation:\n"
            "    pip install 'torch>=2.10' setuptools\n"
            f"    pip install --no-build-isolation .\n{PURE_PYTHON}"
        )
    folder = Path(found.submodule_search_locations[0])
    version = str(runpy.run_path(str(folder / "version.py"))["__version__"])
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < OLDEST_TORCH:
        raise Missing(
            f"the kernels need torch >= 2.10, found {version}. Type: pip install 'torch>=2.10', {PURE_PYTHON}"
        )
    include = folder / "include"
    if not (include / "torch/csrc/stable/library.h").exists() or not (include / "pybind11").exists():
        raise Missing(f"torch {version} in {folder} came without its C++ headers; install a wheel of it, {PURE_PYTHON}")
    return Torch(version, [str(include), str(include / "torch/csrc/api/include")], str(folder / "lib"))


def find_python_headers() -> str:
    include = sysconfig.get_paths()["include"]
    if not Path(include, "Python.h").exists():
        package = f"python{sys.version_info.major}.{sys.version_info.minor}-dev"
        raise Missing(
            f"{include}/Python.h is missing. Type: apt-get install {package} (or python3-devel), {PURE_PYTHON}"
        )
    return include


def find_cxx() -> list[str]:
    named = shlex.split(os.environ.get("CXX", ""))
    if named and not shutil.which(named[0]):
        raise Failed(f"CXX is {named[0]!r}, which is not a command. Unset it or name a C++17 compiler, {PURE_PYTHON}")
    found = named or [name for name in ("g++", "clang++", "c++") if shutil.which(name)][:1]
    if not found:
        raise Missing(f"no C++ compiler found. Type: apt-get install g++ (or set CXX), {PURE_PYTHON}")
    return found


def find_nvcc() -> str:
    homes = [home for name in ("CUDA_HOME", "CUDA_PATH") if (home := os.environ.get(name))]
    for path in [*(f"{home}/bin" for home in homes), None, "/usr/local/cuda/bin"]:
        if found := shutil.which("nvcc", path=path):
            return found
    raise Missing("nvcc was not found. Install the CUDA toolkit, or set CUDA_HOME to the folder of bin/nvcc.")


def cuda_archs() -> list[str]:
    """Architectures as `80`, `90a`, `90+PTX`."""
    name = "GENKERN_CUDA_ARCHS" if os.environ.get("GENKERN_CUDA_ARCHS") else "TORCH_CUDA_ARCH_LIST"
    text = os.environ.get(name) or "80;90+PTX"
    archs = [arch.replace(".", "") for arch in re.split(r"[;, ]+", text) if arch]
    if not archs or not all(re.fullmatch(r"\d{2,3}[af]?(\+PTX)?", arch) for arch in archs):
        # TORCH_CUDA_ARCH_LIST may have been set for another project, in words that only that one knows
        wrong = Failed if name == "GENKERN_CUDA_ARCHS" else Missing
        raise wrong(f"{name} must look like '80;90' or '8.0;9.0+PTX', got {text!r}.")
    return archs


def jobs() -> int:
    text = os.environ.get("MAX_JOBS")
    if text:
        if not text.isdigit() or int(text) < 1:
            raise Failed(f"MAX_JOBS must be a positive integer, got {text!r}.")
        return int(text)
    free_gib = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return max(1, min(os.cpu_count() or 1, int(free_gib)))


# -- one step: a command, and the digest of all that went into it ------------------------------------------------------


class Steps:
    """Runs commands whose inputs have changed since they last ran; relative paths are those from the tree's root."""

    def __init__(self, folder: Path, *identity: str):
        self.folder, self.identity = folder, identity  # identity: versions that no path shows

    def run(self, command: Sequence[str], target: Path, inputs: Sequence[Path] | None = None) -> Path:
        """Makes `target`; its inputs, where they are not given, are those of the .d file that the compiler wrote."""
        place = hashlib.sha256(str(target).encode()).hexdigest()[:8]
        stamp, depends = self.folder / f"{target.name}.{place}", ROOT / target.with_suffix(".d")
        before = self._digest(command, inputs or _dependencies(depends))
        if (ROOT / target).exists() and stamp.exists() and stamp.read_text() == before:
            return target
        stamp.unlink(missing_ok=True)
        said = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        if said.returncode:
            raise Failed(f"this command failed:\n{shlex.join(command)}\n{said.stdout}{said.stderr}")
        stamp.write_text(self._digest(command, inputs or _dependencies(depends)))
        print(f"genkern: {target.name}", flush=True)
        return target

    def _digest(self, command: Sequence[str], inputs: Sequence[Path]) -> str:
        digest = hashlib.sha256("\0".join([*self.identity, *command]).encode())
        for path in (ROOT / name for name in inputs):
            digest.update(path.read_bytes() if path.exists() else b"gone")
        return digest.hexdigest()


def _dependencies(path: Path) -> list[Path]:
    """The files named by a compiler's .d file, in which blanks within names are escaped."""
    if not path.exists():
        return []
    text = path.read_text().replace("\\\n", " ").split(": ", 1)[-1]
    return [Path(name.replace("\\ ", " ")) for name in re.split(r"(?<!\\)\s+", text) if name]


def _sources(pattern: str) -> list[Path]:
    return sorted(path.relative_to(ROOT) for path in ROOT.glob(f"csrc/ops/*/{pattern}"))


def _version(command: Sequence[str]) -> str:
    lines = subprocess.run([*command, "--version"], capture_output=True, text=True).stdout.splitlines()
    return lines[-1 if "nvcc" in command[0] else 0] if lines else "unknown"


# -- the build ---------------------------------------------------------------------------------------------------------


def build(package: Path) -> list[Path]:
    """Builds what GENKERN_BUILD asks for into the package folder, and removes what an earlier build left there.

    Raises:
        Failed: if what was asked for cannot be built; the text says what to type.
    """
    wanted = os.environ.get("GENKERN_BUILD") or "auto"
    if wanted not in ("auto", "cpu", "cuda", "none"):
        raise Failed(f"GENKERN_BUILD must be auto, cpu, cuda or none, got {wanted!r}.")
    package = package.resolve()
    libraries = [package / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}", package / "_cuda.so"]
    package.mkdir(parents=True, exist_ok=True)
    built: list[Path] = []
    if wanted != "none":
        try:
            built = Build(wanted).libraries(*libraries)
        except Missing as reason:
            if wanted != "auto":
                raise
            print(f"genkern: {reason}\ngenkern: going on without kernels.", file=sys.stderr)
    for library in libraries:
        if library not in built:
            library.unlink(missing_ok=True)
    return built


class Build:
    """One build: tools, folders, and the two libraries."""

    def __init__(self, wanted: str):
        self.wanted = wanted
        self.strict = os.environ.get("GENKERN_WERROR") == "1"
        self.torch, python, self.cxx, self.workers = find_torch(), find_python_headers(), find_cxx(), jobs()
        self.includes = [word for path in (python, *self.torch.includes) for word in ("-isystem", path)]
        self.objects = Path("build", f"native-{sys.implementation.cache_tag}")  # relative, as a copied tree's are
        (ROOT / self.objects).mkdir(parents=True, exist_ok=True)
        self.compiler = _version(self.cxx)
        self.steps = Steps(ROOT / self.objects, self.torch.version, self.compiler)

    def libraries(self, cpu: Path, cuda: Path) -> list[Path]:
        begun = time.monotonic()
        with ThreadPoolExecutor(self.workers) as pool:
            kernels = pool.map(self.compile_cpp, _sources("*.cpp"))
            archs = self.cuda_library(cuda, pool)
            facts = {"COMPILER": self.compiler, "TORCH_VERSION": self.torch.version, "CUDA_ARCHS": ";".join(archs)}
            module = self.compile_cpp(Path("csrc/module.cpp"), [f'-DGENKERN_{k}="{v}"' for k, v in facts.items()])
            compiled = [module, *kernels]
        link = ["-shared", "-Wl,--no-as-needed", f"-L{self.torch.libraries}", "-ltorch_cpu"]
        self.steps.run([*self.cxx, *map(str, compiled), *link, "-o", str(cpu)], cpu, compiled)
        print(f"genkern: native libraries up to date after {time.monotonic() - begun:.0f} s", flush=True)
        return [cpu, cuda] if archs else [cpu]

    def compile_cpp(self, source: Path, extra: Sequence[str] = ()) -> Path:
        target = self.objects / "_".join(source.with_suffix(".o").parts)
        exact = EXACT if source.parent.name in EXACT_OPS else []
        flags = [*CXX_FLAGS, *(["-Werror"] if self.strict else []), *exact]
        command = [*self.cxx, *flags, *STABLE_ABI, *extra, *self.includes, "-MMD", "-c", str(source), "-o", str(target)]
        return self.steps.run(command, target)

    def cuda_library(self, library: Path, pool: ThreadPoolExecutor) -> list[str]:
        """The architectures that the library was built for; none where there is no nvcc, or nothing for it to do."""
        sources = _sources("*.cu")
        if self.wanted == "cpu" or not sources:
            return []
        try:
            nvcc, archs = find_nvcc(), cuda_archs()
            steps = Steps(ROOT / self.objects, self.torch.version, _version([nvcc]))
            compiled = list(pool.map(lambda source: self.compile_cuda(steps, nvcc, archs, source), sources))
            # libtorch brings libtorch_cuda where torch has it, so a link against a CPU-only torch serves both
            link = [
                "-shared",
                "-cudart",
                "static",
                "-Xlinker",
                "--no-as-needed",
                f"-L{self.torch.libraries}",
                "-ltorch",
            ]
            steps.run([nvcc, *map(str, compiled), *link, "-o", str(library)], library, compiled)
        except Failed as reason:
            if self.wanted == "cuda" or self.strict and not isinstance(reason, Missing):
                raise
            print(f"genkern: no CUDA kernels: {reason}", file=sys.stderr)
            return []
        return archs

    def compile_cuda(self, steps: Steps, nvcc: str, archs: Sequence[str], source: Path) -> Path:
        target = self.objects / "_".join(source.with_suffix(".cu.o").parts)
        flags = [*NVCC_FLAGS, *(["-Werror", "all-warnings"] if self.strict else [])]
        flags += ["-ccbin", self.cxx[0]] if len(self.cxx) == 1 else []
        for number, _, ptx in (arch.partition("+") for arch in archs):
            flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
            flags += [f"-gencode=arch=compute_{number},code=compute_{number}"] if ptx else []
        command = [nvcc, *flags, *STABLE_ABI, *self.includes, "-MMD", "-c", str(source), "-o", str(target)]
        return steps.run(command, target)


def main(package: Path = ROOT / "genkern") -> list[Path]:
    """As `build`, with a line of plain words in place of a stack trace."""
    try:
        return build(package)
    except Failed as reason:
        sys.exit(f"genkern: {reason}")


if __name__ == "__main__":
    main()
