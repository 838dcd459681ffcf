"""CUDA C++ is compiled and linked wherever there is nvcc, also against a torch that knows no CUDA."""

import ctypes
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
import torch

import genkern

ROOT = Path(__file__).parents[2]
LIBRARY = Path(genkern.__file__).parent / "_cuda.so"
SOURCES = sorted(ROOT.glob("csrc/ops/*/*.cu"))
FATBIN, ENTRY, CUBIN = 0xBA55ED50, struct.Struct("<HHIQ12xI"), 2  # magic; kind, version, header, size, architecture


def cubins(library: bytes) -> list[int]:
    """The architecture of every piece of machine code in the library's fat binaries, one for each source file."""
    found = []
    at = library.find(struct.pack("<I", FATBIN))
    while at >= 0:
        header, size = struct.unpack_from("<HQ", library, at + 6)
        entry, end = at + header, at + header + size
        while header == 16 and entry < end <= len(library):
            kind, _, length, payload, architecture = ENTRY.unpack_from(library, entry)
            if kind == CUBIN:
                found.append(architecture)
            entry += length + payload
        at = library.find(struct.pack("<I", FATBIN), at + 4)
    return found


@pytest.fixture(scope="module")
def library() -> bytes:
    if not SOURCES:
        pytest.skip("no op has a .cu file")
    if not LIBRARY.exists():
        assert shutil.which("nvcc") is None, "nvcc is here, but genkern/_cuda.so was not built"
        pytest.skip("nvcc is not installed, so the CUDA library was not built")
    return LIBRARY.read_bytes()


@pytest.mark.parametrize("architecture", [80, 90])
def test_every_source_became_machine_code_for(architecture, library):
    assert cubins(library).count(architecture) >= len(SOURCES)


def test_every_symbol_but_those_of_cuda_torch_is_there(library):
    """Links as a program would: what is missing may only be what a CUDA build of torch brings."""
    if torch.version.cuda is None:
        missing = subprocess.run(["ldd", "-r", LIBRARY], capture_output=True, text=True, env={
            "LD_LIBRARY_PATH": str(Path(torch.__file__).parent / "lib"), "PATH": "/usr/bin:/bin"})  # fmt: skip
        symbols = [line.split()[2] for line in missing.stdout.splitlines() if "undefined symbol" in line]
        assert set(symbols) <= {"aoti_torch_get_current_cuda_stream"}
    else:
        ctypes.CDLL(str(LIBRARY))
