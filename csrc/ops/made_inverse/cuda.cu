// One launch carries every sample through all D steps: a block of threads keeps a few samples' units in shared memory,
// a warp computes a unit, its lanes share the columns. The backward launch runs the recursion again, then backwards.

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "arguments.h"

namespace genkern::made_inverse {
namespace {

constexpr int WARP = 32, WARPS = 8;
constexpr int MAX_LAYERS = 32;  // what fits in kernel arguments, with the last one
constexpr int MAX_PIECE = 960;  // integers, likewise
constexpr unsigned ALL = 0xffffffffu;

struct DeviceLayer {
  int64_t weight, bias;
  int rows, columns, level;
};

// The table holds the starts of each hidden layer, D + 1 numbers each, the order, and the position of each element in
// it.
struct DeviceNetwork {
  int features, hidden, units;
  Activation activation;
  bool residual;
  const int* table;
  DeviceLayer layers[MAX_LAYERS];

  __device__ const DeviceLayer& layer(int l) const { return layers[l - 1]; }
  __device__ int start(int l, int k) const { return table[(l - 1) * (features + 1) + k]; }
  __device__ int seen(int l, int k) const { return l == 1 ? k : start(l - 1, k + 1); }
  __device__ const int* order() const { return table + hidden * (features + 1); }
  __device__ const int* position() const { return order() + features; }

  // The step that computes a row of layer l.
  __device__ int step_of(int l, int row) const {
    if (l > hidden) return position()[row % features];
    int from = 0, to = features;  // start(from) <= row < start(to)
    while (to - from > 1) {
      const int middle = (from + to) / 2;
      if (start(l, middle) <= row)
        from = middle;
      else
        to = middle;
    }
    return from;
  }
};

template <typename T>
struct DeviceCall {
  DeviceNetwork network;
  Transform transform;
  int64_t batch;
  const T *z, *weight, *bias, *offset;
};

struct Piece {
  int count;
  int values[MAX_PIECE];
};

__global__ void write_table(Piece piece, int* table) {
  for (int i = threadIdx.x; i < piece.count; i += blockDim.x) table[i] = piece.values[i];
}

template <typename T>
__device__ T activate_any(Activation activation, T h) {
  if (activation == Activation::relu) return activate<Activation::relu>(h);
  if (activation == Activation::tanh) return activate<Activation::tanh>(h);
  return activate<Activation::elu>(h);
}

template <typename T>
__device__ T slope_any(Activation activation, T a) {
  if (activation == Activation::relu) return slope<Activation::relu>(a);
  if (activation == Activation::tanh) return slope<Activation::tanh>(a);
  return slope<Activation::elu>(a);
}

template <typename T>
__device__ Solution<T> solve_any(const Transform& transform, T z, T s, T m) {
  if (transform.scale == Scale::exp) return solve<Scale::exp>(transform, z, s, m);
  if (transform.scale == Scale::tanh) return solve<Scale::tanh>(transform, z, s, m);
  return solve<Scale::sigmoid>(transform, z, s, m);
}

template <typename T>
__device__ Gradients<T> pull_back_any(const Transform& transform, T z, T x, T s, T m, T grad_x, T grad_log_det) {
  if (transform.scale == Scale::exp) return pull_back<Scale::exp>(transform, z, x, s, m, grad_x, grad_log_det);
  if (transform.scale == Scale::tanh) return pull_back<Scale::tanh>(transform, z, x, s, m, grad_x, grad_log_det);
  return pull_back<Scale::sigmoid>(transform, z, x, s, m, grad_x, grad_log_det);
}

// Rows of SAMPLES numbers each.
__host__ __device__ inline int64_t forward_rows(int features, int units, bool residual) {
  return int64_t(3) * features + int64_t(residual ? 2 : 1) * units;
}
__host__ __device__ inline int64_t all_rows(int features, int units, bool residual) {
  return forward_rows(features, units, residual) + int64_t(3) * features + units;
}

template <typename T, int SAMPLES>
struct State {
  T *x, *params, *units, *stream, *grad_x, *grad_params, *grad_units;
  int64_t first;
  int warp, lane;

  __device__ State(const DeviceCall<T>& call, T* memory) {
    const DeviceNetwork& n = call.network;
    const int64_t d = int64_t(n.features) * SAMPLES, u = int64_t(n.units) * SAMPLES;
    x = memory, params = x + d, units = params + 2 * d, stream = units + u;
    grad_x = stream + (n.residual ? u : 0), grad_params = grad_x + d, grad_units = grad_params + 2 * d;
    first = int64_t(blockIdx.x) * SAMPLES;
    warp = int(threadIdx.x) / WARP, lane = int(threadIdx.x) % WARP;
  }
  __device__ T* row(T* base, const DeviceLayer& layer, int unit) const {
    return base + int64_t(layer.level + unit) * SAMPLES;
  }
  // The sample of a lane; the last one stands in for those beyond the batch.
  __device__ int64_t sample(const DeviceCall<T>& call, int s) const {
    return first + s < call.batch ? first + s : call.batch - 1;
  }

  // sum_c w[c stride] values[c] of sample `lane`, over c < n or the columns of an index; the whole warp takes part.
  __device__ T dot(const T* w, int64_t stride, const T* values, const int* index, int n) const {
    T sums[SAMPLES] = {};
    for (int i = lane; i < n; i += WARP) {
      const int c = index == nullptr ? i : index[i];
      const T weight = w[c * stride];
#pragma unroll
      for (int s = 0; s < SAMPLES; s++) sums[s] += weight * values[int64_t(c) * SAMPLES + s];
    }
    T mine = 0;
#pragma unroll
    for (int s = 0; s < SAMPLES; s++) {
      for (int distance = WARP / 2; distance > 0; distance /= 2) sums[s] += __shfl_xor_sync(ALL, sums[s], distance);
      mine = lane == s ? sums[s] : mine;
    }
    return mine;
  }

  // All D steps; the log-determinant of sample `lane` in warp 0. The last thing is a barrier.
  __device__ double run_forward(const DeviceCall<T>& call) {
    const DeviceNetwork& network = call.network;
    const int d = network.features, last = network.hidden + 1;
    const int* const order = network.order();
    double log_det = 0;
    for (int k = 0; k < d; k++) {
      for (int l = 1; l < last; l++) {
        const DeviceLayer& layer = network.layer(l);
        const int begin = network.start(l, k), end = network.start(l, k + 1);
        const T* const below = l == 1 ? x : row(units, network.layer(l - 1), 0);
        for (int unit = begin + warp; unit < end; unit += WARPS) {
          T h = dot(call.weight + layer.weight + int64_t(unit) * layer.columns, 1, below, l == 1 ? order : nullptr,
                    network.seen(l, k));
          if (lane >= SAMPLES) continue;
          h += call.bias[layer.bias + unit];
          if (l == 1 && call.offset != nullptr) h += call.offset[sample(call, lane) * layer.rows + unit];
          if (network.residual && l % 2 == 1) {
            if (l > 1) h += row(stream, network.layer(l - 2), unit)[lane];
            row(stream, layer, unit)[lane] = h;
          }
          row(units, layer, unit)[lane] = activate_any(network.activation, h);
        }
        if (begin < end) __syncthreads();
      }
      if (warp == 0) {
        const DeviceLayer& layer = network.layer(last);
        const int dim = order[k];
        const T* const values = row(units, network.layer(last - 1), 0);
        T raw[2];
        for (int p = 0; p < 2; p++)
          raw[p] = dot(call.weight + layer.weight + int64_t(p * d + dim) * layer.columns, 1, values, nullptr,
                       network.seen(last, k)) +
                   call.bias[layer.bias + p * d + dim];
        if (lane < SAMPLES) {
          for (int p = 0; p < 2; p++) params[int64_t(p * d + dim) * SAMPLES + lane] = raw[p];
          const Solution<T> solution = solve_any(call.transform, call.z[sample(call, lane) * d + dim], raw[0], raw[1]);
          x[int64_t(dim) * SAMPLES + lane] = solution.x;
          log_det += solution.log_det;
        }
      }
      __syncthreads();
    }
    return log_det;
  }

  // From the last step to the first; grad_x holds the gradients of x to begin with, and those of z at the end.
  __device__ void run_backward(const DeviceCall<T>& call, const T* grad_log_det) {
    const DeviceNetwork& network = call.network;
    const int d = network.features;
    const int* const order = network.order();
    const DeviceLayer &bottom = network.layer(1), &top = network.layer(network.hidden + 1);
    for (int k = d - 1; k >= 0; k--) {
      if (warp == 0) {
        const int dim = order[k], from = network.start(1, k + 1);
        const T pulled = dot(call.weight + bottom.weight + int64_t(from) * d + dim, d, row(grad_units, bottom, from),
                             nullptr, bottom.rows - from);
        if (lane < SAMPLES) {
          const int64_t at = int64_t(dim) * SAMPLES + lane, shift = int64_t(d) * SAMPLES;
          const int64_t number = sample(call, lane);
          const bool real = first + lane < call.batch;
          const Gradients<T> g =
              pull_back_any(call.transform, call.z[number * d + dim], x[at], params[at], params[at + shift],
                            real ? grad_x[at] + pulled : T(0), real ? grad_log_det[number] : T(0));
          grad_x[at] = g.z;
          grad_params[at] = g.s;
          grad_params[at + shift] = g.m;
        }
      }
      __syncthreads();
      for (int l = network.hidden; l >= 1; l--) {
        const DeviceLayer &layer = network.layer(l), &above = network.layer(l + 1);
        const int begin = network.start(l, k), end = network.start(l, k + 1);
        for (int unit = begin + warp; unit < end; unit += WARPS) {
          const T* const w = call.weight + above.weight + unit;
          T g = 0;
          if (l == network.hidden) {
            for (int p = 0; p < 2; p++)
              g += dot(w + int64_t(p) * d * top.columns, top.columns, grad_params + int64_t(p) * d * SAMPLES, order + k,
                       d - k);
          } else {
            const int from = network.start(l + 1, k);
            g = dot(w + int64_t(from) * above.columns, above.columns, row(grad_units, above, from), nullptr,
                    above.rows - from);
          }
          if (lane >= SAMPLES) continue;
          g *= slope_any(network.activation, row(units, layer, unit)[lane]);
          if (network.residual && l % 2 == 1 && l + 2 <= network.hidden)
            g += row(grad_units, network.layer(l + 2), unit)[lane];
          row(grad_units, layer, unit)[lane] = g;
        }
        if (begin < end) __syncthreads();
      }
    }
  }

  // [rows, SAMPLES] to rows of a tensor [batch, width].
  __device__ void write(const DeviceCall<T>& call, const T* from, int rows, T* to, int width) const {
    for (int i = threadIdx.x; i < rows * SAMPLES; i += blockDim.x) {
      const int s = i / rows, r = i % rows;
      if (first + s < call.batch) to[(first + s) * width + r] = from[int64_t(r) * SAMPLES + s];
    }
  }
};

template <typename T>
__device__ T* memory_of(T* spill, int64_t rows, int samples) {
  extern __shared__ double shared[];
  return spill == nullptr ? reinterpret_cast<T*>(shared) : spill + int64_t(blockIdx.x) * rows * samples;
}

template <typename T, int SAMPLES>
__global__ void __launch_bounds__(WARP* WARPS) invert_kernel(DeviceCall<T> call, T* x, T* log_det, T* spill) {
  const DeviceNetwork& network = call.network;
  State<T, SAMPLES> state(call,
                          memory_of(spill, forward_rows(network.features, network.units, network.residual), SAMPLES));
  const double total = state.run_forward(call);
  state.write(call, state.x, network.features, x, network.features);
  if (state.warp == 0 && state.lane < SAMPLES && state.first + state.lane < call.batch)
    log_det[state.first + state.lane] = T(total);
}

// What the products of the parameters' gradients are made of: values [batch, D + units], gradients [batch, units + 2
// D].
template <typename T, int SAMPLES>
__global__ void __launch_bounds__(WARP* WARPS)
    pull_back_kernel(DeviceCall<T> call, const T* grad_x, const T* grad_log_det, T* grad_z, T* grad_offset, T* values,
                     T* gradients, T* spill) {
  const DeviceNetwork& network = call.network;
  const int d = network.features, units = network.units;
  State<T, SAMPLES> state(call, memory_of(spill, all_rows(d, units, network.residual), SAMPLES));
  for (int i = threadIdx.x; i < d * SAMPLES; i += blockDim.x)
    state.grad_x[int64_t(i % d) * SAMPLES + i / d] = grad_x[state.sample(call, i / d) * d + i % d];
  state.run_forward(call);
  state.run_backward(call, grad_log_det);
  __syncthreads();
  const int first = network.layer(1).rows;
  if (grad_z != nullptr) state.write(call, state.grad_x, d, grad_z, d);
  if (grad_offset != nullptr) state.write(call, state.grad_units, first, grad_offset, first);
  if (values == nullptr) return;
  state.write(call, state.x, d, values, d + units);
  state.write(call, state.units, units, values + d, d + units);
  state.write(call, state.grad_units, units, gradients, units + 2 * d);
  state.write(call, state.grad_params, 2 * d, gradients + units, units + 2 * d);
}

// A dense product [rows, columns] to the gradient of layer l, zero where the degrees leave out a weight.
template <typename T>
__global__ void mask_kernel(DeviceNetwork network, int l, const T* dense, T* grad_weight) {
  const DeviceLayer& layer = network.layer(l);
  const int64_t size = int64_t(layer.rows) * layer.columns;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < size; i += int64_t(gridDim.x) * blockDim.x) {
    const int row = int(i / layer.columns), column = int(i % layer.columns);
    const int seen = network.seen(l, network.step_of(l, row));
    const bool reads = (l == 1 ? network.position()[column] : column) < seen;
    grad_weight[layer.weight + i] = reads ? dense[i] : T(0);
  }
}

// -- host -------------------------------------------------------------------------------------------------------------

void check(cudaError_t status) { STD_TORCH_CHECK(status == cudaSuccess, "made_inverse: ", cudaGetErrorString(status)); }

cudaStream_t stream_of(int device) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  return static_cast<cudaStream_t>(stream);
}

// The network on the device: its table travels as kernel arguments, so that nothing waits.
DeviceNetwork network_of(const Structure& structure, const Tensor& table, cudaStream_t stream) {
  const Network& n = structure.network;
  STD_TORCH_CHECK(n.hidden < MAX_LAYERS, "made_inverse: hidden must be of fewer than ", MAX_LAYERS,
                  " layers on CUDA; got ", n.hidden, ".");
  DeviceNetwork network{int(n.features), int(n.hidden), int(n.units), n.activation, n.residual, data<int>(table), {}};
  for (int64_t l = 0; l <= n.hidden; l++) {
    const Layer& from = structure.layers[size_t(l)];
    network.layers[l] = {from.weight, from.bias, int(from.rows), int(from.columns), int(from.level)};
  }
  Integers numbers = structure.starts;
  numbers.insert(numbers.end(), structure.order.begin(), structure.order.end());
  numbers.resize(numbers.size() + structure.order.size());
  for (int64_t k = 0; k < n.features; k++) numbers[numbers.size() - size_t(n.features - n.order[k])] = k;
  for (size_t at = 0; at < numbers.size(); at += MAX_PIECE) {
    Piece piece{};
    piece.count = int(std::min(numbers.size() - at, size_t(MAX_PIECE)));
    for (int i = 0; i < piece.count; i++) piece.values[i] = int(numbers[at + size_t(i)]);
    write_table<<<1, 256, 0, stream>>>(piece, data<int>(table) + at);
    check(cudaGetLastError());
  }
  return network;
}

Tensor table_for(const Tensor& z, const Structure& structure) {
  return torch::stable::new_empty(z, {int64_t(structure.starts.size() + 2 * structure.order.size())}, ScalarType::Int);
}

// As many samples to a block as leave no multiprocessor idle, and fit in shared memory.
struct Plan {
  int samples, shared;
  int64_t blocks, spilled;  // elements in global memory
};

Plan plan_of(int device, int64_t batch, int64_t rows, int64_t item) {
  int processors = 0, available = 0;
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device));
  check(cudaDeviceGetAttribute(&available, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  int samples = 8;
  while (samples > 1 && (batch < int64_t(samples) * processors || rows * samples * item > available)) samples /= 2;
  const int64_t blocks = (batch + samples - 1) / samples, bytes = rows * samples * item;
  if (bytes <= available) return {samples, int(bytes), blocks, 0};
  return {samples, 0, blocks, blocks * rows * samples};
}

template <typename F>
void by_samples(int samples, const F& f) {
  switch (samples) {
    case 8: return f(std::integral_constant<int, 8>{});
    case 4: return f(std::integral_constant<int, 4>{});
    case 2: return f(std::integral_constant<int, 2>{});
    default: return f(std::integral_constant<int, 1>{});
  }
}

template <typename K, typename... Arguments>
void launch(K kernel, const Plan& plan, cudaStream_t stream, const Arguments&... arguments) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, plan.shared));
  kernel<<<unsigned(plan.blocks), WARP * WARPS, size_t(plan.shared), stream>>>(arguments...);
  check(cudaGetLastError());
}

template <typename T>
DeviceCall<T> device_call(const DeviceNetwork& network, const Transform& transform, const Tensor& z,
                          const Tensor& weight, const Tensor& bias, const Tensor& offset) {
  return {network,
          transform,
          z.size(0),
          data<T>(z),
          data<T>(weight),
          data<T>(bias),
          offset.size(1) == 0 ? nullptr : data<T>(offset)};
}

std::tuple<Tensor, Tensor> forward_cuda(Tensor z, Tensor weight, Tensor bias, Tensor offset, Integers hidden,
                                        Integers starts, Integers order, std::string activation, bool residual,
                                        std::string scale, double bound, bool standardize) {
  const int device = z.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const cudaStream_t stream = stream_of(device);
  z = dense(z), weight = dense(weight), bias = dense(bias), offset = dense(offset);
  const Structure structure(z, weight, bias, hidden, starts, order, activation, residual);
  Tensor x = output(z, {z.size(0), z.size(1)}), log_det = output(z, {z.size(0)});
  if (z.size(0) == 0) return {x, log_det};
  const Tensor table = table_for(z, structure);
  const DeviceNetwork network = network_of(structure, table, stream);
  by_dtype(z, [&](auto type) {
    using T = decltype(type);
    const DeviceCall<T> call =
        device_call<T>(network, transform_of(scale, bound, standardize), z, weight, bias, offset);
    const Plan plan = plan_of(device, call.batch, forward_rows(network.features, network.units, residual), sizeof(T));
    Tensor spill = torch::stable::new_empty(z, {plan.spilled});
    by_samples(plan.samples, [&](auto samples) {
      launch(invert_kernel<T, decltype(samples)::value>, plan, stream, call, data<T>(x), data<T>(log_det),
             plan.spilled == 0 ? static_cast<T*>(nullptr) : data<T>(spill));
    });
  });
  return {x, log_det};
}

// Columns [at, at + width) of a matrix.
Tensor columns(Tensor matrix, int64_t at, int64_t width) { return torch::stable::narrow(matrix, 1, at, width); }

std::tuple<Tensor, Tensor, Tensor, Tensor> backward_cuda(Tensor grad_x, Tensor grad_log_det, Tensor z, Tensor weight,
                                                         Tensor bias, Tensor offset, Integers hidden, Integers starts,
                                                         Integers order, std::string activation, bool residual,
                                                         std::string scale, double bound, bool standardize,
                                                         bool needs_z, bool needs_weight, bool needs_bias,
                                                         bool needs_offset) {
  const int device = z.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const cudaStream_t stream = stream_of(device);
  z = dense(z), weight = dense(weight), bias = dense(bias), offset = dense(offset);
  grad_x = dense(grad_x), grad_log_det = dense(grad_log_det);
  const Structure structure(z, weight, bias, hidden, starts, order, activation, residual);
  const int64_t batch = z.size(0), d = z.size(1), units = structure.network.units;
  const bool parameters = needs_weight || needs_bias;
  Tensor grad_z = needs_z ? output(z, {batch, d}) : output(z, {0});
  Tensor grad_offset = needs_offset ? output(z, {batch, offset.size(1)}) : output(z, {0});
  Tensor grad_weight = torch::stable::new_zeros(z, {needs_weight ? weight.numel() : 0});
  Tensor grad_bias = torch::stable::new_zeros(z, {needs_bias ? bias.numel() : 0});
  if (batch == 0) return {grad_z, grad_weight, grad_bias, grad_offset};
  Tensor values = torch::stable::new_empty(z, {parameters ? batch : 0, d + units});
  Tensor gradients = torch::stable::new_empty(z, {parameters ? batch : 0, units + 2 * d});
  const Tensor table = table_for(z, structure);
  const DeviceNetwork network = network_of(structure, table, stream);
  by_dtype(z, [&](auto type) {
    using T = decltype(type);
    const DeviceCall<T> call =
        device_call<T>(network, transform_of(scale, bound, standardize), z, weight, bias, offset);
    const Plan plan = plan_of(device, batch, all_rows(network.features, network.units, residual), sizeof(T));
    Tensor spill = torch::stable::new_empty(z, {plan.spilled});
    T* const nothing = nullptr;
    by_samples(plan.samples, [&](auto samples) {
      launch(pull_back_kernel<T, decltype(samples)::value>, plan, stream, call, static_cast<const T*>(data<T>(grad_x)),
             static_cast<const T*>(data<T>(grad_log_det)), needs_z ? data<T>(grad_z) : nothing,
             needs_offset && offset.size(1) > 0 ? data<T>(grad_offset) : nothing,
             parameters ? data<T>(values) : nothing, parameters ? data<T>(gradients) : nothing,
             plan.spilled == 0 ? nothing : data<T>(spill));
    });
    for (int64_t l = 1; needs_weight && l <= network.hidden + 1; l++) {
      const Layer& layer = structure.layers[size_t(l - 1)];
      const int64_t values_at = l == 1 ? 0 : d + structure.layers[size_t(l - 2)].level;
      const Tensor g = columns(gradients, layer.level, layer.rows), v = columns(values, values_at, layer.columns);
      const Tensor product = dense(torch::stable::matmul(torch::stable::transpose(g, 0, 1), v));
      const int64_t size = layer.rows * layer.columns;
      mask_kernel<T><<<unsigned(std::min<int64_t>((size + 255) / 256, 4096)), 256, 0, stream>>>(
          network, int(l), static_cast<const T*>(data<T>(product)), data<T>(grad_weight));
      check(cudaGetLastError());
    }
  });
  if (needs_bias) grad_bias = torch::stable::sum(gradients, std::vector<int64_t>{0}, false);
  return {grad_z, grad_weight, grad_bias, grad_offset};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(genkern, CUDA, m) {
  m.impl("made_inverse", TORCH_BOX(&forward_cuda));
  m.impl("made_inverse_backward", TORCH_BOX(&backward_cuda));
}

}  // namespace genkern::made_inverse
