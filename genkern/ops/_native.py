"""Loads the native libraries once, and remembers why where it could not."""

from __future__ import annotations

import ctypes
import functools
import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

REBUILD = "pip install --no-build-isolation . (or `make demo` in a checkout) builds it"


@dataclass
class NativeLibrary:
    """What was loaded: facts of the build, the ops with C++ and CUDA kernels, and why anything is missing."""

    facts: dict[str, Any] = field(default_factory=dict)
    cpu_ops: frozenset[str] = frozenset()
    cuda_ops: frozenset[str] = frozenset()
    why_not: str = ""
    why_not_cuda: str = ""


@functools.cache
def native_library() -> NativeLibrary:
    """The native libraries, loaded at the first call."""
    library = NativeLibrary()
    try:
        module = importlib.import_module("genkern._C")
    except ModuleNotFoundError:
        library.why_not = f"the native library genkern._C was not built; {REBUILD}"
    except ImportError as error:
        library.why_not = _explain(error)
    else:
        library.facts = module.build_facts()
        library.cpu_ops = _kernels("CPU")
    _load_cuda(library)
    return library


def _load_cuda(library: NativeLibrary) -> None:
    path = Path(__file__).parents[1] / "_cuda.so"
    if not path.exists():
        library.why_not_cuda = "the CUDA library was not built (nvcc is needed)"
    elif not torch.cuda.is_available():
        library.why_not_cuda = "built, not loaded: torch sees no CUDA device"
    else:
        try:
            ctypes.CDLL(str(path))
            library.cuda_ops = _kernels("CUDA")
        except OSError as error:
            library.why_not_cuda = _explain(error)


def _kernels(key: str) -> frozenset[str]:
    names = torch._C._dispatch_get_registrations_for_dispatch_key(key)
    return frozenset(name.removeprefix("genkern::") for name in names if name.startswith("genkern::"))


def _explain(error: Exception) -> str:
    text = str(error).splitlines()[0]
    if "undefined symbol" in text:
        return (
            f"the native library does not fit this torch ({torch.__version__}): it needs torch >= 2.10, "
            f"or a rebuild ({REBUILD}). The loader said: {text}"
        )
    return f"the native library could not be loaded: {text}. {REBUILD}"
