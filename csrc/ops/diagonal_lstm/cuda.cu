// One launch for a batch: a block of threads walks the waves of its picture, and no other block waits for it.
// The gradient of the weight is a matrix product over all cells, which cuBLAS does.

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "block.h"
#include "tensors.h"

namespace genkern::diagonal_lstm {
namespace {

constexpr int THREADS = 512;  // at most

struct Threads {
  __device__ int64_t thread() const { return threadIdx.x; }
  __device__ int64_t threads() const { return blockDim.x; }
  __device__ void sync() const { __syncthreads(); }
};

template <typename T>
__global__ void __launch_bounds__(THREADS) forward_kernel(Lattice lattice, const T* x, const T* weight, T* c, T* h) {
  const int64_t cell = int64_t(blockIdx.x) * lattice.cells();
  const Picture<T> picture{x + cell * lattice.gates(), nullptr, c + cell * lattice.hidden, h + cell * lattice.hidden,
                           nullptr};
  picture_forward(lattice, picture, weight, Threads{});
}

template <typename T>
__global__ void __launch_bounds__(THREADS)
    backward_kernel(Lattice lattice, const T* grad_h, const T* x, const T* weight, const T* transposed, T* c, T* h,
                    T* grad_x) {
  const int64_t cell = int64_t(blockIdx.x) * lattice.cells();
  const Picture<T> picture{x + cell * lattice.gates(), grad_x + cell * lattice.gates(), c + cell * lattice.hidden,
                           h + cell * lattice.hidden, grad_h + cell * lattice.hidden};
  picture_forward(lattice, picture, weight, Threads{});
  picture_backward(lattice, picture, transposed, Threads{});
}

void check(cudaError_t status) {
  STD_TORCH_CHECK(status == cudaSuccess, "diagonal_lstm: ", cudaGetErrorString(status));
}

struct Launch {
  torch::stable::accelerator::DeviceGuard guard;
  cudaStream_t stream;
  dim3 threads;

  Launch(const Tensor& x, const Lattice& lattice) : guard(x.get_device_index()) {
    void* current = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &current));
    stream = static_cast<cudaStream_t>(current);
    const int64_t longest = lattice.diagonal ? std::min(lattice.height, lattice.width) : lattice.width;
    const int64_t items = (longest + CELLS - 1) / CELLS * lattice.hidden;
    threads = dim3(unsigned(std::clamp<int64_t>((items + 31) / 32 * 32, 32, THREADS)));
  }
};

Tensor in_lattice(const Tensor& x, int64_t size) { return output(x, {x.size(0), x.size(1), x.size(2), size}); }

Tensor forward_cuda(Tensor x, Tensor weight, std::string order) {
  const ScalarType dtype = x.scalar_type();
  x = widened(x), weight = widened(weight);
  const Lattice lattice = lattice_of(x, weight, order);
  Tensor h = in_lattice(x, lattice.hidden);
  if (h.numel() > 0) {
    const Launch launch(x, lattice);
    const Tensor by_tap = dense(torch::stable::transpose(weight, 0, 2));  // [taps, h, 4h]
    Tensor c = in_lattice(x, lattice.hidden);
    const auto run = [&](auto type) {
      using T = decltype(type);
      forward_kernel<T><<<unsigned(x.size(0)), launch.threads, 0, launch.stream>>>(lattice, data<T>(x), data<T>(by_tap),
                                                                                   data<T>(c), data<T>(h));
    };
    if (x.scalar_type() == ScalarType::Double)
      run(double{});
    else
      run(float{});
    check(cudaGetLastError());
  }
  return dtype == h.scalar_type() ? h : torch::stable::to(h, dtype);
}

// h of the cell that each cell sees through a tap, [B * H * W, h]; zeros outside of the picture.
Tensor seen(const Lattice& lattice, const Tensor& h, int tap) {
  const int64_t rows = -lattice.tap_row(tap), columns = -lattice.tap_column(tap);
  const int64_t left = std::max<int64_t>(columns, 0), right = std::max<int64_t>(-columns, 0);
  const std::vector<int64_t> border{0, 0, left, right, rows, 0};
  Tensor moved = torch::stable::pad(h, border);
  moved = torch::stable::narrow(moved, 1, 0, lattice.height);
  moved = torch::stable::narrow(moved, 2, right, lattice.width);
  return torch::stable::reshape(moved, {h.size(0) * lattice.cells(), lattice.hidden});
}

std::tuple<Tensor, Tensor> backward_cuda(Tensor grad_h, Tensor x, Tensor weight, std::string order) {
  const ScalarType dtype = x.scalar_type();
  grad_h = widened(grad_h), x = widened(x), weight = widened(weight);
  const Lattice lattice = lattice_of(x, weight, order);
  Tensor grad_x = output_like(x), grad_weight = output_like(weight);
  if (x.numel() == 0) {
    torch::stable::zero_(grad_weight);
  } else {
    const Launch launch(x, lattice);
    const Tensor by_tap = dense(torch::stable::transpose(weight, 0, 2));      // [taps, h, 4h]
    const Tensor transposed = dense(torch::stable::transpose(by_tap, 1, 2));  // [taps, 4h, h]
    Tensor c = in_lattice(x, lattice.hidden), h = in_lattice(x, lattice.hidden);
    const auto run = [&](auto type) {
      using T = decltype(type);
      backward_kernel<T><<<unsigned(x.size(0)), launch.threads, 0, launch.stream>>>(
          lattice, data<T>(grad_h), data<T>(x), data<T>(by_tap), data<T>(transposed), data<T>(c), data<T>(h),
          data<T>(grad_x));
    };
    if (x.scalar_type() == ScalarType::Double)
      run(double{});
    else
      run(float{});
    check(cudaGetLastError());
    const Tensor by_cell = torch::stable::reshape(grad_x, {x.size(0) * lattice.cells(), lattice.gates()});
    const Tensor by_gate = torch::stable::transpose(by_cell, 0, 1);
    for (int tap = 0; tap < lattice.taps; tap++) {
      Tensor part = torch::stable::select(grad_weight, 2, tap);
      torch::stable::copy_(part, torch::stable::matmul(by_gate, seen(lattice, h, tap)));
    }
  }
  if (dtype == grad_x.scalar_type()) return {grad_x, grad_weight};
  return {torch::stable::to(grad_x, dtype), torch::stable::to(grad_weight, dtype)};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(genkern, CUDA, m) {
  m.impl("diagonal_lstm", TORCH_BOX(&forward_cuda));
  m.impl("diagonal_lstm_backward", TORCH_BOX(&backward_cuda));
}

}  // namespace genkern::diagonal_lstm
