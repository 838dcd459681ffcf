// One launch for a batch: a block of threads draws a picture, all its buffers in global memory (in L2, mostly). The
// program travels as kernel arguments, so nothing is copied from the host and nothing waits for it.

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <algorithm>
#include <vector>

#include "block.h"
#include "shapes.h"

namespace genkern::causal_sample {
namespace {

constexpr int THREADS = 256;

struct Threads {
  __device__ int64_t thread() const { return threadIdx.x; }
  __device__ int64_t threads() const { return THREADS; }
  __device__ void sync() const { __syncthreads(); }
};

// Part of the plan's tables.
struct Piece {
  int32_t count, values[960];
};

__global__ void write_table(const __grid_constant__ Piece piece, int32_t* table) {
  for (int i = int(threadIdx.x); i < piece.count; i += THREADS) table[i] = piece.values[i];
}

template <typename T>
__global__ void __launch_bounds__(THREADS)
    sample_kernel(const __grid_constant__ Plan plan, const T* weights, const T* conditions, int64_t conditions_size,
                  const T* features, int64_t features_size, const T* noise, const bool* free, int32_t* x, T* space,
                  T temperature) {
  extern __shared__ double shared[];
  const int64_t picture = blockIdx.x, sites = int64_t(plan.height) * plan.width;
  sample_picture(plan,
                 Picture<T>{weights, conditions + picture * conditions_size, features + picture * sites * features_size,
                            noise + picture * plan.noises * sites, free, x + picture * plan.sub_pixels * sites,
                            space + picture * plan.space, reinterpret_cast<T*>(shared), temperature},
                 Threads{});
}

void check(cudaError_t status) {
  STD_TORCH_CHECK(status == cudaSuccess, "causal_sample: ", cudaGetErrorString(status));
}

// The tables one after the other, as numbers.
std::vector<int32_t> numbers_of(const Tables& tables) {
  std::vector<int32_t> numbers;
  const auto append = [&](const auto& rows) {
    const auto* first = reinterpret_cast<const int32_t*>(rows.data());
    numbers.insert(numbers.end(), first, first + rows.size() * sizeof(rows[0]) / sizeof(int32_t));
  };
  append(tables.maps), append(tables.steps), append(tables.runs);
  return numbers;
}

// Writes the tables to the device, and points the plan to them.
Tensor send(const Tables& tables, Plan* plan, const Tensor& like, cudaStream_t stream) {
  const std::vector<int32_t> numbers = numbers_of(tables);
  Tensor table = torch::stable::new_empty(like, {int64_t(numbers.size())}, ScalarType::Int);
  int32_t* const to = data<int32_t>(table);
  constexpr size_t MOST = sizeof(Piece::values) / sizeof(int32_t);
  for (size_t at = 0; at < numbers.size(); at += MOST) {
    Piece piece{};
    piece.count = int32_t(std::min(numbers.size() - at, MOST));
    std::copy_n(numbers.begin() + int64_t(at), piece.count, piece.values);
    write_table<<<1, THREADS, 0, stream>>>(piece, to + at);
    check(cudaGetLastError());
  }
  plan->maps = reinterpret_cast<const Map*>(to);
  plan->steps = reinterpret_cast<const BlockStep*>(plan->maps + plan->buffers);
  plan->runs = reinterpret_cast<const BlockRun*>(plan->steps + plan->count);
  return table;
}

Tensor causal_sample_cuda(Tensor x, Tensor weights, Tensor conditions, Tensor features, Tensor noise, Tensor free,
                          std::vector<int64_t> code, int64_t levels, double temperature) {
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  void* current = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &current));
  const cudaStream_t stream = static_cast<cudaStream_t>(current);
  Program program;
  const char* wrong = program.read(code, weights.numel(), conditions.size(1), levels);
  STD_TORCH_CHECK(wrong == nullptr, "causal_sample: program cannot be run: ", wrong ? wrong : "", ".");
  weights = dense(weights), conditions = dense(conditions), features = dense(features), noise = dense(noise);
  free = dense(free);
  check_shapes(program, x, features, noise);
  Tables tables;
  Plan plan;
  STD_TORCH_CHECK(plan_of(program, x.size(2), x.size(3), levels, weights.numel(), &tables, &plan),
                  "causal_sample: x must be small enough for offsets of 32 bits; got ", x.size(2), " by ", x.size(3),
                  ".");
  Tensor drawn = torch::stable::clone(dense(x));
  if (x.numel() == 0) return drawn;
  const Tensor table = send(tables, &plan, weights, stream);
  Tensor space = torch::stable::new_empty(weights, {x.size(0) * plan.space});
  const auto run = [&](auto type) {
    using T = decltype(type);
    const size_t shared = size_t(THREADS + levels) * sizeof(T);
    check(cudaFuncSetAttribute(sample_kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared)));
    sample_kernel<T><<<unsigned(x.size(0)), THREADS, shared, stream>>>(
        plan, data<T>(weights), data<T>(conditions), conditions.size(1), data<T>(features), features.size(3),
        data<T>(noise), data<bool>(free), data<int32_t>(drawn), data<T>(space), T(temperature));
  };
  if (weights.scalar_type() == ScalarType::Double)
    run(double{});
  else
    run(float{});
  check(cudaGetLastError());
  return drawn;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(genkern, CUDA, m) { m.impl("causal_sample", TORCH_BOX(&causal_sample_cuda)); }

}  // namespace genkern::causal_sample
