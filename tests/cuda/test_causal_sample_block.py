"""What the CUDA kernel of the cached sampler runs, run by a block of ordinary threads with a barrier."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from genkern import random
from genkern.models.autoregressive import gated_pixelcnn, pixelcnn, pixelcnn_pp, pixeliqn
from genkern.nn.autoregressive import stack_of
from genkern.ops import causal_sample

ROOT = Path(__file__).parents[2]
SOURCE = """
#include <barrier>
#include <thread>
#include <vector>
#include "block.h"
using namespace genkern::causal_sample;
struct Threads {
  int64_t number, count;
  std::barrier<>* all;
  int64_t thread() const { return number; }
  int64_t threads() const { return count; }
  void sync() const { all->arrive_and_wait(); }
};
extern "C" bool run(const int64_t* code, int64_t length, int64_t total, int64_t conditions_size, int64_t height,
                    int64_t width, int64_t levels, double temperature, int64_t threads, const double* weights,
                    const double* conditions, const double* features, const double* noise, const bool* free,
                    int32_t* x) {
  Program program;
  Tables tables;
  Plan plan;
  if (program.read({code, code + length}, total, conditions_size, levels) != nullptr) return false;
  if (!plan_of(program, height, width, levels, total, &tables, &plan)) return false;
  std::vector<double> space(plan.space), scratch(32 + threads + levels);
  const Picture<double> picture{weights, conditions,   features,       noise,      free,
                                x,       space.data(), scratch.data(), temperature};
  std::barrier<> all(threads);
  std::vector<std::thread> block;
  for (int64_t t = 0; t < threads; t++)
    block.emplace_back([&, t] { sample_picture(plan, picture, Threads{t, threads, &all}); });
  for (auto& thread : block) thread.join();
  return true;
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    folder = tmp_path_factory.mktemp("block")
    (folder / "block.cpp").write_text(SOURCE)
    include = f"-I{ROOT / 'csrc/ops/causal_sample'}"
    command = ["g++", "-std=c++20", "-O1", "-shared", "-fPIC", "-pthread", include, "block.cpp", "-o", "block.so"]
    subprocess.run(command, cwd=folder, check=True)
    found = ctypes.CDLL(str(folder / "block.so"))
    found.run.restype = ctypes.c_bool
    return found


NETWORKS = {
    "gated by class": (gated_pixelcnn.GatedPixelCNN, gated_pixelcnn.Config((1, 4, 4), 5, 2, 3, 4, head=5)),
    "gated rgb": (gated_pixelcnn.GatedPixelCNN, gated_pixelcnn.Config((3, 3, 4), 40, None, 2, 6, head=6)),
    "masked rgb": (pixelcnn.PixelCNN, pixelcnn.Config((3, 3, 3), 5, h=6, blocks=1, head=6)),
    "mixture": (pixelcnn_pp.PixelCNNPP, pixelcnn_pp.Config((1, 4, 8), 9, 2, 1, 4, 3, resolutions=3)),
    "mixture rgb": (pixelcnn_pp.PixelCNNPP, pixelcnn_pp.Config((3, 4, 2), 9, None, 1, 4, 3, resolutions=2)),
    "quantiles rgb": (pixeliqn.PixelIQN, pixeliqn.Config((3, 3, 4), 9, 2, 2, 6, head=6, cosines=4, embedding=6)),
}


@pytest.mark.parametrize("temperature", [1.0, 0.0])
@pytest.mark.parametrize("threads", [1, 4, 37])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_block_of_threads_draws_the_pixels_of_the_definition(library, name, threads, temperature):
    torch.manual_seed(0)
    model_class, config = NETWORKS[name]
    model = model_class(config).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 2
    conditional, mixture = config.classes is not None, model.head_kind == "mixture"
    tau = random.uniform(random.key(2), (1, *config.shape), dtype=torch.float64)
    given = (
        model.embedding(tau).permute(0, 2, 3, 1)
        if model.head_kind == "quantile"
        else tau.new_zeros(1, *tau.shape[2:], 0)
    )
    options = {"head": model.head_kind, "conditional": conditional, "features": given.shape[3]}
    stack = stack_of(model.network, config.shape[0], **options)
    weights = stack.weights(model.network)
    condition = model.condition(torch.tensor([1])) if conditional else None
    vectors = weights.new_zeros(1, 0) if condition is None else stack.condition_vectors(model.network, condition)
    vectors, given = vectors.detach().contiguous(), given.detach().contiguous()
    size = (1, config.shape[0] + mixture, *config.shape[1:])
    noise = random.uniform(random.key(1), size, dtype=torch.float64)
    x = torch.randint(config.levels, (1, *config.shape), dtype=torch.int32)
    free = torch.rand(config.shape[1:]) < 0.8
    options = {"levels": config.levels, "conditions": vectors, "features": given, "free": free}
    options["temperature"] = temperature
    expected = causal_sample(x, weights, noise, stack.code, impl="torch", **options)

    drawn, code = x.clone(), torch.tensor(stack.code)
    numbers = [len(code), len(weights), vectors.shape[1], *config.shape[1:], config.levels]
    given = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (weights, vectors, given, noise, free, drawn)]
    sizes = [*map(ctypes.c_int64, numbers), ctypes.c_double(temperature), ctypes.c_int64(threads)]
    assert library.run(ctypes.c_void_p(code.data_ptr()), *sizes, *given)
    assert torch.equal(drawn, expected)
