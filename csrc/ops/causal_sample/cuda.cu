// One launch for a batch: a block of threads draws a picture, all its buffers in global memory (in L2, mostly). The
// program travels as a kernel argument, so nothing is copied to the device and nothing waits for it.

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "../../common/torch.h"
#include "block.h"

namespace genkern::causal_sample {
namespace {

constexpr int THREADS = 256;

struct Threads {
  __device__ int64_t thread() const { return threadIdx.x; }
  __device__ int64_t threads() const { return THREADS; }
  __device__ void sync() const { __syncthreads(); }
};

template <typename T>
__global__ void __launch_bounds__(THREADS)
    sample_kernel(const __grid_constant__ Plan plan, const T* weights, const T* conditions, int64_t conditions_size,
                  const T* noise, const bool* free, int32_t* x, T* space, T temperature) {
  extern __shared__ double shared[];
  const int64_t picture = blockIdx.x, pixels = int64_t(plan.sub_pixels) * plan.height * plan.width;
  sample_picture(
      plan,
      Picture<T>{weights, conditions + picture * conditions_size, noise + picture * pixels, free, x + picture * pixels,
                 space + picture * plan.space, reinterpret_cast<T*>(shared), temperature},
      Threads{});
}

void check(cudaError_t status) {
  STD_TORCH_CHECK(status == cudaSuccess, "causal_sample: ", cudaGetErrorString(status));
}

Tensor causal_sample_cuda(Tensor x, Tensor weights, Tensor conditions, Tensor noise, Tensor free,
                          std::vector<int64_t> code, int64_t levels, double temperature) {
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream));
  Program program;
  const char* wrong = program.read(code, weights.numel(), conditions.size(1), levels);
  STD_TORCH_CHECK(wrong == nullptr, "causal_sample: program cannot be run: ", wrong ? wrong : "", ".");
  weights = dense(weights), conditions = dense(conditions), noise = dense(noise), free = dense(free);
  STD_TORCH_CHECK(x.size(1) == program.sub_pixels, "causal_sample: x must have ", program.sub_pixels, " channels; got ",
                  x.size(1), ".");
  Plan plan;
  STD_TORCH_CHECK(plan_of(program, x.size(2), x.size(3), levels, weights.numel(), &plan),
                  "causal_sample: program must have at most ", STEPS, " steps on a GPU; got ", program.steps.size(),
                  ".");
  Tensor drawn = torch::stable::clone(dense(x));
  if (x.numel() == 0) return drawn;
  Tensor space = torch::stable::new_empty(weights, {x.size(0) * plan.space});
  const auto run = [&](auto type) {
    using T = decltype(type);
    const size_t shared = size_t(THREADS + levels) * sizeof(T);
    check(cudaFuncSetAttribute(sample_kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared)));
    sample_kernel<T><<<unsigned(x.size(0)), THREADS, shared, static_cast<cudaStream_t>(stream)>>>(
        plan, data<T>(weights), data<T>(conditions), conditions.size(1), data<T>(noise), data<bool>(free),
        data<int32_t>(drawn), data<T>(space), T(temperature));
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
