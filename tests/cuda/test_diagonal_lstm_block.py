"""What the CUDA kernels of the diagonal LSTM run, run by a block of ordinary threads with a barrier."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from genkern.ops.diagonal_lstm import reference

ROOT = Path(__file__).parents[2]
SOURCE = """
#include <barrier>
#include <thread>
#include <vector>
#include "block.h"
using namespace genkern::diagonal_lstm;
struct Threads {
  int64_t number, count;
  std::barrier<>* all;
  int64_t thread() const { return number; }
  int64_t threads() const { return count; }
  void sync() const { all->arrive_and_wait(); }
};
extern "C" void run(int64_t height, int64_t width, int64_t hidden, int taps, bool diagonal, int64_t threads,
                    const double* x, const double* by_tap, const double* transposed, const double* grad_h,
                    double* gates, double* c, double* h) {
  const Lattice lattice{height, width, hidden, taps, diagonal};
  const Picture<double> picture{x, gates, c, h, grad_h};
  std::barrier<> all(threads);
  std::vector<std::thread> block;
  for (int64_t t = 0; t < threads; t++)
    block.emplace_back([&, t] {
      picture_forward(lattice, picture, by_tap, Threads{t, threads, &all});
      picture_backward(lattice, picture, transposed, Threads{t, threads, &all});
    });
  for (auto& thread : block) thread.join();
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    folder = tmp_path_factory.mktemp("block")
    (folder / "block.cpp").write_text(SOURCE)
    include = f"-I{ROOT / 'csrc/ops/diagonal_lstm'}"
    command = ["g++", "-std=c++20", "-O1", "-shared", "-fPIC", "-pthread", include, "block.cpp", "-o", "block.so"]
    subprocess.run(command, cwd=folder, check=True)
    return ctypes.CDLL(str(folder / "block.so"))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("order", "taps"), [("diagonal", 2), ("rows", 3), ("rows", 1)])
@pytest.mark.parametrize("size", [(5, 9), (9, 5), (1, 1)])
def test_a_block_of_threads_computes_the_recurrence_and_its_gradient(library, size, order, taps, threads):
    hidden, generator = 3, torch.Generator().manual_seed(0)
    draw = dict(generator=generator, dtype=torch.float64)
    x = torch.randn(1, *size, 4 * hidden, **draw).requires_grad_()
    weight, grad_h = torch.randn(4 * hidden, hidden, taps, **draw), torch.randn(1, *size, hidden, **draw)
    h = reference.diagonal_lstm(x, weight, order)
    (grad_x,) = torch.autograd.grad(h, x, grad_h)

    found = {name: torch.full(like.shape, torch.nan, dtype=torch.float64)
             for name, like in {"gates": x, "c": h, "h": h}.items()}  # fmt: skip
    by_tap = weight.permute(2, 1, 0).contiguous()
    given = [x.detach(), by_tap, by_tap.mT.contiguous(), grad_h, *found.values()]
    sizes = [*map(ctypes.c_int64, (*size, hidden)), ctypes.c_int(taps), ctypes.c_bool(order == "diagonal")]
    library.run(*sizes, ctypes.c_int64(threads), *(ctypes.c_void_p(tensor.data_ptr()) for tensor in given))
    torch.testing.assert_close(found["h"], h.detach(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found["gates"], grad_x, rtol=1e-10, atol=1e-12)
