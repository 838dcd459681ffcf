"""Builds genkern's native libraries: C++ kernels wherever there is a compiler, CUDA kernels wherever there is nvcc.

Environment:
    GENKERN_BUILD        auto (default): build what can be built; cpu, cuda: that, or fail; none: pure Python
    GENKERN_CUDA_ARCHS   e.g. "80;90" (or TORCH_CUDA_ARCH_LIST="8.0;9.0")
    GENKERN_WERROR       1: warnings are errors
    MAX_JOBS             compilers at a time
"""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
TARGET = "0x020a000000000000"  # the stable ABI of torch 2.10: one build serves every later torch
CXX_FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fopenmp-simd", "-fno-math-errno",
             "-fno-trapping-math", "-Wall", "-Wextra", "-Wno-psabi"]  # fmt: skip
EXACT = ["-ffp-contract=off"]  # random streams: the same bits on every machine
NO_TORCH = (
    "genkern: torch is not importable here, so no kernels can be built. Install torch (>= 2.10) first, then\n"
    "    pip install --no-build-isolation .\n"
    "or set GENKERN_BUILD=none for a pure-Python install that runs on the PyTorch reference."
)


class Unbuildable(Exception):
    """Why there will be no native library."""


def torch_facts():
    try:
        import torch
        from torch.utils.cpp_extension import include_paths
    except ImportError as error:
        raise Unbuildable(NO_TORCH) from error
    release = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if release < (2, 10):
        raise Unbuildable(f"genkern: torch >= 2.10 is needed to build the kernels, found {torch.__version__}.")
    includes = [sysconfig.get_paths()["include"], *include_paths()]
    try:
        import pybind11

        includes.append(pybind11.get_include())
    except ImportError:
        pass  # torch carries the headers too
    return torch.__version__, includes, Path(torch.__file__).parent / "lib"


def compiler():
    words = shlex.split(os.environ.get("CXX", "")) or [
        shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")
    ]
    if not words[0] or not shutil.which(words[0]):
        raise Unbuildable("genkern: no C++ compiler found. Install g++ (or set CXX), or set GENKERN_BUILD=none.")
    return words


def nvcc():
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    return (home and shutil.which("nvcc", path=f"{home}/bin")) or shutil.which("nvcc")


def cuda_archs():
    text = os.environ.get("GENKERN_CUDA_ARCHS") or os.environ.get("TORCH_CUDA_ARCH_LIST") or "80;90"
    archs = [arch.replace(".", "").replace("+PTX", "") for arch in text.replace(",", ";").replace(" ", ";").split(";")]
    archs = [arch for arch in archs if arch]
    for arch in archs:
        if not arch.rstrip("af").isdigit():
            raise Unbuildable(f"genkern: GENKERN_CUDA_ARCHS must look like '80;90', got {text!r}.")
    return archs


def jobs():
    if os.environ.get("MAX_JOBS"):
        return max(1, int(os.environ["MAX_JOBS"]))
    try:
        free_gib = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    except (ValueError, OSError):
        free_gib = 4
    return max(1, min(os.cpu_count() or 1, int(free_gib / 1.5)))


class Build(build_ext):
    """Compiles csrc/ in parallel, each file when it or what it includes is newer than its object."""

    def run(self):
        wanted = os.environ.get("GENKERN_BUILD", "auto")
        if wanted not in ("auto", "cpu", "cuda", "none"):
            sys.exit(f"genkern: GENKERN_BUILD must be auto, cpu, cuda or none, got {wanted!r}.")
        if wanted == "none":
            return
        try:
            self.build_native(wanted)
        except Unbuildable as reason:
            if wanted != "auto":
                sys.exit(str(reason))
            print(f"{reason}\ngenkern: going on without native kernels.", file=sys.stderr)

    def build_native(self, wanted):
        version, includes, libraries = torch_facts()
        cxx, cuda_compiler = compiler(), nvcc()
        if wanted == "cuda" and not cuda_compiler:
            raise Unbuildable("genkern: GENKERN_BUILD=cuda, but nvcc was not found (CUDA_HOME, PATH).")
        cuda_sources = sorted(ROOT.glob("csrc/ops/*/cuda.cu"))
        archs = cuda_archs() if cuda_compiler and cuda_sources and wanted != "cpu" else []
        objects = Path(self.build_temp) / "genkern"
        objects.mkdir(parents=True, exist_ok=True)
        defines = [f"-DTORCH_TARGET_VERSION={TARGET}", "-DTORCH_STABLE_ONLY"]
        system = [f"-isystem{path}" for path in includes]
        strict = ["-Werror"] if os.environ.get("GENKERN_WERROR") == "1" else []
        named = subprocess.run([*cxx, "--version"], capture_output=True, text=True).stdout.splitlines()[0]
        facts = [f'-DGENKERN_COMPILER="{named}"', f'-DGENKERN_TORCH_VERSION="{version}"',
                 f'-DGENKERN_CUDA_ARCHS="{";".join(archs)}"']  # fmt: skip

        def compile_cpp(source):
            target = objects / ("_".join(source.relative_to(ROOT).with_suffix(".o").parts))
            exact = EXACT if source.parent.name == "random" else []
            extra = facts if source.name in ("module.cpp",) else []
            self.step([*cxx, *CXX_FLAGS, *strict, *exact, *defines, *extra, *system, "-MMD", "-c", str(source),
                       "-o", str(target)], target)  # fmt: skip
            return str(target)

        def compile_cuda(source):
            target = objects / ("_".join(source.relative_to(ROOT).with_suffix(".cu.o").parts))
            codes = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs]
            quiet = ["-Werror", "all-warnings"] if strict else []
            self.step([cuda_compiler, "-std=c++17", "-O3", "-Xcompiler", "-fPIC", *codes, *quiet, *defines, "-DUSE_CUDA",
                       *system, "-MMD", "-c", str(source), "-o", str(target)], target)  # fmt: skip
            return str(target)

        with ThreadPoolExecutor(jobs()) as pool:
            sources = [ROOT / "csrc/module.cpp", *sorted(ROOT.glob("csrc/ops/*/*.cpp"))]
            cpu = [pool.submit(compile_cpp, source) for source in sources]
            cuda = [pool.submit(compile_cuda, source) for source in cuda_sources if archs]
            cpu, cuda = [job.result() for job in cpu], [job.result() for job in cuda]

        output = Path(self.get_ext_fullpath("genkern._C"))
        output.parent.mkdir(parents=True, exist_ok=True)
        link = [f"-L{libraries}", "-ltorch", "-ltorch_cpu", "-lc10"]
        self.step([*cxx, "-shared", *cpu, *link, "-o", str(output)], output, cpu)
        if cuda:
            library = output.parent / "_cuda.so"
            self.step(
                [cuda_compiler, "-shared", "-cudart", "shared", *cuda, *link, "-o", str(library)],
                library,
                cuda,
            )

    def step(self, command, target, inputs=None):
        """Runs one compiler or linker command, unless its output is newer than everything that went into it."""
        stamp = Path(f"{target}.cmd") if inputs is None else None
        depends = target.with_suffix(".d")
        if inputs is None and depends.exists() and stamp.exists() and stamp.read_text() == shlex.join(command):
            inputs = depends.read_text().replace("\\\n", " ").split(":", 1)[1].split()
        if inputs and target.exists():
            newest = max((os.path.getmtime(path) if os.path.exists(path) else float("inf")) for path in inputs)
            if newest < target.stat().st_mtime:
                return
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            sys.exit(f"genkern: a build command failed:\n{shlex.join(command)}\n{result.stdout}{result.stderr}")
        if stamp:
            stamp.write_text(shlex.join(command))

    def get_outputs(self):
        return [str(path) for path in Path(self.build_lib, "genkern").glob("*.so")] if not self.inplace else []


setup(ext_modules=[Extension("genkern._C", sources=[])], cmdclass={"build_ext": Build})
