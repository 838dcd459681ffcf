// One launch solves every sample: a block of threads for each walks its fronts of pixels that do not see each other.
// The block waits for itself twice a front, and nothing waits on the host.

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "tensors.h"

namespace genkern::autoregressive_conv {
namespace {

constexpr int WARP = 32, MAX_THREADS = 1024;

// What a block works with. Whatever does not fit in shared memory lies in a share of `spill`.
template <typename T>
struct Scratch {
  T* taps;     // [taps, C (from), C (to)]
  T* inverse;  // [C (from), C (to)], L^-1
  T* recent;   // [reach + 1, H, C]: the last fronts, in turn
  T* right;    // [rows of a front, C]: y - sum_t M_t x_{p - t}
};

struct Sizes {
  int64_t taps, inverse, recent, right;  // elements

  template <typename T>
  __host__ __device__ explicit Sizes(const Solve<T>& solve) {
    const int64_t channels = solve.channels, lag = solve.window.lag();
    taps = solve.window.count() * channels * channels;
    inverse = channels * channels;
    recent = (solve.window.reach() + 1) * solve.height * channels;
    const int64_t most = (solve.width + lag - 1) / lag;
    right = (most < solve.height ? most : solve.height) * channels;
  }
};

// Hands out shared memory as long as it lasts, then the block's share of the spill.
template <typename T>
struct Memory {
  T* shared;
  int64_t left;
  T* spill;

  __device__ T* take(int64_t count) {
    T*& from = count <= left ? shared : spill;
    if (count <= left) left -= count;
    T* const begin = from;
    from += count;
    return begin;
  }
};

// Column `m` of L^-1 by forward substitution, in float64; one thread a column.
template <typename T>
__device__ void invert_column(const Solve<T>& solve, int64_t m, double* column, T* inverse) {
  const int64_t n = solve.channels;
  for (int64_t i = 0; i < n; i++) {
    double value = i == m ? 1 : 0;
    for (int64_t k = m; k < i; k++) value -= double(solve.entry(i, k, {0, 0})) * column[k];
    if (i >= m) column[i] = value / double(solve.entry(i, i, {0, 0}));
    inverse[m * n + i] = i >= m ? T(column[i]) : T(0);
  }
}

template <typename T>
__device__ void prepare(const Solve<T>& solve, const Scratch<T>& scratch, double* columns) {
  const int64_t n = solve.channels;
  for (int64_t m = threadIdx.x; m < n; m += blockDim.x) invert_column(solve, m, columns + m * n, scratch.inverse);
  for (int64_t e = threadIdx.x; e < solve.window.count() * n * n; e += blockDim.x)
    scratch.taps[e] = solve.entry(e % n, e / n % n, solve.window.tap(int(e / (n * n))));
}

template <typename T>
__global__ void solve_kernel(Solve<T> solve, T* spill, int64_t spill_size, double* columns, int64_t resident) {
  extern __shared__ double shared[];
  const Sizes sizes(solve);
  const Window window = solve.window;
  const int channels = int(solve.channels), height = int(solve.height), width = int(solve.width);
  const int lag = window.lag(), turns = window.reach() + 1, taps = window.count();
  const int64_t sample = blockIdx.x;
  Memory<T> memory{reinterpret_cast<T*>(shared), resident, spill + sample * spill_size};
  Scratch<T> scratch;
  scratch.right = memory.take(sizes.right);
  scratch.recent = memory.take(sizes.recent);
  scratch.inverse = memory.take(sizes.inverse);
  scratch.taps = memory.take(sizes.taps);
  prepare(solve, scratch, columns + sample * channels * channels);
  __syncthreads();

  const T* const y = solve.y + sample * solve.of_y.first;
  T* const x = solve.x + sample * solve.of_x.first;
  for (int front = 0; front < width + lag * (height - 1); front++) {
    // Its pixels: rows `top` to `bottom`, row i at column front - lag * i.
    const int top = front < width ? 0 : (front - width) / lag + 1;
    const int bottom = front / lag < height ? front / lag : height - 1;
    const int work = (bottom - top + 1) * channels;
    for (int item = int(threadIdx.x); item < work; item += int(blockDim.x)) {
      const int row = top + item / channels, to = item % channels, column = front - lag * row;
      T sum = y[to * solve.of_y.second + row * solve.of_y.row + column * solve.of_y.column];
      for (int t = 0; t < taps; t++) {
        const Tap tap = window.tap(t);
        const int source = column - tap.dx;
        if (tap.dy > row || source < 0 || source >= width) continue;
        const int turn = (front - tap.dx - lag * tap.dy) % turns;
        const T* const pixel = scratch.recent + (int64_t(turn) * height + row - tap.dy) * channels;
        const T* const matrix = scratch.taps + int64_t(t) * channels * channels + to;
        for (int from = 0; from < channels; from++) sum -= matrix[from * channels] * pixel[from];
      }
      scratch.right[item] = sum;
    }
    __syncthreads();
    for (int item = int(threadIdx.x); item < work; item += int(blockDim.x)) {
      const int row = top + item / channels, to = item % channels, column = front - lag * row;
      const T* const right = scratch.right + item - to;
      T sum = 0;
      for (int from = 0; from <= to; from++) sum += scratch.inverse[from * channels + to] * right[from];
      scratch.recent[(int64_t(front % turns) * height + row) * channels + to] = sum;
      x[to * solve.of_x.second + row * solve.of_x.row + column * solve.of_x.column] = sum;
    }
    __syncthreads();
  }
}

void check(cudaError_t status) {
  STD_TORCH_CHECK(status == cudaSuccess, "autoregressive_conv: ", cudaGetErrorString(status));
}

// Elements of T beyond those that fit in `resident`, taken in the order of the kernel.
int64_t spilled(const Sizes& sizes, int64_t resident) {
  int64_t left = resident, beyond = 0;
  for (const int64_t count : {sizes.right, sizes.recent, sizes.inverse, sizes.taps}) {
    if (count <= left)
      left -= count;
    else
      beyond += count;
  }
  return beyond;
}

template <typename T>
void launch(const Solve<T>& solve, const Tensor& like, int device, cudaStream_t stream) {
  int available = 0;
  check(cudaDeviceGetAttribute(&available, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  const Sizes sizes(solve);
  const int64_t wanted = sizes.right + sizes.recent + sizes.inverse + sizes.taps;
  const int64_t resident = std::min(wanted, available / int64_t(sizeof(T)));
  const int64_t beyond = spilled(sizes, resident);
  Tensor spill = torch::stable::new_empty(like, {solve.batch * beyond});
  Tensor columns = torch::stable::new_empty(like, {solve.batch * solve.channels * solve.channels}, ScalarType::Double);
  const size_t shared = size_t(resident) * sizeof(T);
  check(cudaFuncSetAttribute(solve_kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared)));
  const int64_t threads = std::clamp<int64_t>((sizes.right + WARP - 1) / WARP * WARP, WARP, MAX_THREADS);
  solve_kernel<T><<<unsigned(solve.batch), unsigned(threads), shared, stream>>>(solve, data<T>(spill), beyond,
                                                                                data<double>(columns), resident);
  check(cudaGetLastError());
}

Tensor solve_cuda(Tensor y, Tensor weight, bool square, bool reverse) {
  Tensor x = output_like(y);
  if (y.numel() == 0) return x;
  const int device = y.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  const auto run = [&](auto type) {
    launch(solve_of<decltype(type)>(y, weight, x, square, reverse), y, device, static_cast<cudaStream_t>(stream));
  };
  if (y.scalar_type() == ScalarType::Double)
    run(double{});
  else
    run(float{});
  return x;
}

// One thread for each entry of the weight; the first block also sums ln |L_cc|, in order.
template <typename T>
__global__ void taps_kernel(Live live, int64_t channels, const T* __restrict__ weight, T* __restrict__ taps,
                            arithmetic_t<T>* __restrict__ log_det) {
  const int64_t columns = 2 * live.window.columns + 1, area = columns * (2 * live.window.rows + 1);
  const int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x;
  if (i < channels * channels * area) {
    const int64_t pair = i / area, t = i % area;
    const bool centre = t == area / 2;
    const bool kept =
        centre ? live.at_centre(pair / channels, pair % channels) : live.tap(int(t / columns), int(t % columns));
    taps[i] = kept ? weight[i] : store<T>(arithmetic_t<T>(0));
  }
  if (i == 0) {
    double sum = 0;
    for (int64_t c = 0; c < channels; c++)
      sum += ::log(::fabs(double(load(weight[(c * channels + c) * area + area / 2]))));
    *log_det = arithmetic_t<T>(sum);
  }
}

template <typename T>
__global__ void taps_backward_kernel(Live live, int64_t channels, const T* __restrict__ grad_taps,
                                     const arithmetic_t<T>* __restrict__ grad_log_det, const T* __restrict__ weight,
                                     T* __restrict__ grad) {
  using A = arithmetic_t<T>;
  const int64_t columns = 2 * live.window.columns + 1, area = columns * (2 * live.window.rows + 1);
  const int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x;
  if (i >= channels * channels * area) return;
  const int64_t pair = i / area, t = i % area, to = pair / channels, from = pair % channels;
  const bool centre = t == area / 2;
  const bool kept = centre ? live.at_centre(to, from) : live.tap(int(t / columns), int(t % columns));
  A value = kept ? load(grad_taps[i]) : A(0);
  if (centre && to == from && *grad_log_det != A(0)) value += *grad_log_det / load(weight[i]);
  grad[i] = store<T>(value);
}

constexpr int64_t BLOCK = 256;

unsigned blocks_of(const Tensor& weight) { return unsigned((weight.numel() + BLOCK - 1) / BLOCK); }

cudaStream_t stream_of(const Tensor& tensor) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

std::tuple<Tensor, Tensor> taps_cuda(Tensor weight, bool square, bool reverse) {
  const torch::stable::accelerator::DeviceGuard guard(weight.get_device_index());
  weight = dense(weight);
  Tensor taps = output_like(weight), log_det = output(weight, {}, wide(weight));
  dispatch("autoregressive_taps", weight.scalar_type(), [&](auto type) {
    using T = decltype(type);
    taps_kernel<T><<<blocks_of(weight), BLOCK, 0, stream_of(weight)>>>(live_of(weight, square, reverse), weight.size(0),
                                                                       data<T>(weight), data<T>(taps),
                                                                       data<arithmetic_t<T>>(log_det));
    check(cudaGetLastError());
  });
  return {taps, log_det};
}

Tensor taps_backward_cuda(Tensor grad_taps, Tensor grad_log_det, Tensor weight, bool square, bool reverse) {
  const torch::stable::accelerator::DeviceGuard guard(weight.get_device_index());
  grad_taps = dense(grad_taps), weight = dense(weight);
  Tensor grad = output_like(weight);
  dispatch("autoregressive_taps", weight.scalar_type(), [&](auto type) {
    using T = decltype(type);
    taps_backward_kernel<T><<<blocks_of(weight), BLOCK, 0, stream_of(weight)>>>(
        live_of(weight, square, reverse), weight.size(0), data<T>(grad_taps), data<arithmetic_t<T>>(grad_log_det),
        data<T>(weight), data<T>(grad));
    check(cudaGetLastError());
  });
  return grad;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(genkern, CUDA, m) {
  m.impl("autoregressive_solve", TORCH_BOX(&solve_cuda));
  m.impl("autoregressive_taps", TORCH_BOX(&taps_cuda));
  m.impl("autoregressive_taps_backward", TORCH_BOX(&taps_backward_cuda));
}

}  // namespace genkern::autoregressive_conv
