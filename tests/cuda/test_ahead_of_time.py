"""Every kernel compiles to machine code with no driver."""

import importlib.util
import pkgutil

import pytest

import genkern.ops

triton = pytest.importorskip("triton")
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402


def kernels():
    for package in pkgutil.iter_modules(genkern.ops.__path__):
        if package.ispkg and importlib.util.find_spec(f"genkern.ops.{package.name}.triton"):
            module = importlib.import_module(f"genkern.ops.{package.name}.triton")
            for entry in module.AHEAD_OF_TIME:
                yield pytest.param(entry, id=f"{package.name}-{entry.kernel.__name__}")


@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("entry", list(kernels()))
def test_compiles_to_cubin(entry, arch):
    source = ASTSource(entry.kernel, entry.signature | dict.fromkeys(entry.constants, "constexpr"), entry.constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=entry.options)
    assert len(compiled.asm["cubin"]) > 0
