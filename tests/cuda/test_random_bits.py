import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from genkern import random

triton = pytest.importorskip("triton")
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from genkern.ops.random import triton as kernels  # noqa: E402

ROOT = Path(__file__).parents[2]
SOURCE = """
#include "normal.h"
__global__ void draw(uint64_t key, float* out) {
  const genkern::Words word = genkern::noise_words(key, blockIdx.x, threadIdx.x);
  const genkern::Pair pair = genkern::box_muller(word.x, word.y);
  out[threadIdx.x] = pair.a + genkern::uniform(word.z);
  out[threadIdx.x + 1] = pair.b;
}
"""


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
@pytest.mark.parametrize("arch", [80, 90])
def test_the_headers_compile_for_cuda_without_contraction(tmp_path, arch):
    source, target = tmp_path / "draw.cu", tmp_path / "draw.ptx"
    source.write_text(SOURCE)
    subprocess.run(["nvcc", "-std=c++17", "-ptx", "-fmad=false", "-Werror", "all-warnings", f"-arch=sm_{arch}",
                    f"-I{ROOT / 'csrc/common'}", str(source), "-o", str(target)], check=True)  # fmt: skip
    code = target.read_text()
    assert not re.search(r"\bfma\.|\.approx|\.ftz", code) and "sqrt.rn.f32" in code


def ptx(kernel, signature, constants, arch, **options):
    source = ASTSource(kernel, {name: signature.get(name, "constexpr") for name in kernel.arg_names}, constants)
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options).asm["ptx"]


def draw_ptx(normal, dtype, elements, arch, fusion):
    signature = {"key": "*i64", "out": f"*{dtype}", "samples": "i64", "elements": elements, "sample_offset": "i64",
                 "below_one": "fp32"}  # fmt: skip
    constants = {"NORMAL": normal, "BLOCK": kernels.BLOCK}
    return ptx(kernels.draw_kernel, signature, constants, arch, enable_fp_fusion=fusion)


@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize(("normal", "dtype", "elements"),
                         [(True, "fp32", "i32"), (True, "bf16", "i64"), (True, "fp16", "i32"), (True, "fp64", "i32"),
                          (False, "fp32", "i64")])  # fmt: skip
def test_no_step_is_contracted_or_approximated(arch, normal, dtype, elements):
    code = draw_ptx(normal, dtype, elements, arch, fusion=False)
    assert not re.search(r"\bfma\.|\.approx|\.ftz", code)
    assert len(re.findall(r"sqrt\.rn\.f32", code)) == (4 if normal else 0)
    assert re.search(r"\bfma\.", draw_ptx(True, "fp32", "i32", arch, fusion=True))  # what the launch option prevents


@pytest.mark.gpu
@pytest.mark.parametrize("draw", [random.normal, random.uniform])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_gpu_and_cpu_draw_the_same_bits(draw, dtype):
    for shape in ((7, 1), (9, 5), (64, 3, 32, 32), (5000, 3), (0, 4)):
        for offset in (0, 2**32 - 3):
            on_cpu = draw(random.key(42), shape, dtype=dtype, sample_offset=offset)
            on_gpu = draw(random.key(42, device="cuda"), shape, dtype=dtype, sample_offset=offset)
            assert on_gpu.is_cuda and torch.equal(on_gpu.cpu(), on_cpu)


@pytest.mark.gpu
def test_gpu_and_cpu_derive_the_same_keys():
    on_gpu = random.split(random.fold_in(random.key(1, device="cuda"), 7), 1000)
    assert torch.equal(on_gpu.cpu(), random.split(random.fold_in(random.key(1), 7), 1000))


@pytest.mark.gpu
def test_a_captured_graph_draws_new_noise_for_a_new_step():
    key, step = random.key(3, device="cuda"), torch.zeros((), dtype=torch.int64, device="cuda")
    random.normal(random.fold_in(key, step), (32, 77))  # compiles before the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        noise = random.normal(random.fold_in(key, step), (32, 77))
    for number in (5, 6):
        step.fill_(number)
        graph.replay()
        assert torch.equal(noise.cpu(), random.normal(random.fold_in(random.key(3), number), (32, 77)))
