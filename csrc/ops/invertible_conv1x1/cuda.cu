// One launch inverts every matrix of a model: a block of threads for each, in shared memory, in float64.
// Sizes travel as kernel arguments, so nothing is copied to the device and nothing waits for it.

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "../../common/torch.h"
#include "lu.h"

namespace genkern::invertible_conv1x1 {
namespace {

constexpr int WARP = 32;
constexpr int MAX_RUNS = 160;  // what fits in 4 KB of kernel arguments

// `count` neighbouring matrices of size n, the first of them matrix number `first`, at `offset`.
struct Run {
  int64_t offset;
  int n, first, count;
};

struct Runs {
  Run run[MAX_RUNS];
  int count;
};

struct Pivot {
  int row;
  double value;
};

struct Scratch {
  double* matrix;  // [n, stride]
  int64_t stride;
  double* factors;  // [n], the column that is being eliminated
  Pivots pivots;
};

// The threads of one block: a warp takes a row, its lanes the columns.
struct Block {
  Pivot* shared;  // written by the first warp, read by all

  __device__ int index() const { return threadIdx.y * WARP + threadIdx.x; }
  __device__ int size() const { return blockDim.y * WARP; }
  __device__ bool first() const { return index() == 0; }
  __device__ int row(int from) const { return from + threadIdx.y; }
  __device__ int rows() const { return blockDim.y; }
  __device__ bool owns_column(int k) const { return k % WARP == threadIdx.x; }
  __device__ void sync() const { __syncthreads(); }

  __device__ Pivot largest(const Scratch& scratch, int k, int n) const {
    if (threadIdx.y == 0) {
      Pivot pivot{k, scratch.matrix[k * scratch.stride + k]};
      for (int i = k + threadIdx.x; i < n; i += WARP) {
        const double value = scratch.matrix[i * scratch.stride + k];
        if (exceeds(value, pivot.value)) pivot = {i, value};
      }
      for (int distance = WARP / 2; distance > 0; distance /= 2) {
        const Pivot other{__shfl_down_sync(0xffffffffu, pivot.row, distance),
                          __shfl_down_sync(0xffffffffu, pivot.value, distance)};
        const bool tie = fabs(other.value) == fabs(pivot.value) && other.row < pivot.row;
        if (exceeds(other.value, pivot.value) || tie) pivot = other;
      }
      if (threadIdx.x == 0) *shared = pivot;
    }
    __syncthreads();
    return *shared;
  }

  // Lane l of every row's warp keeps to columns l, l + 32, ...
  __device__ void subtract(double* row, double factor, const double* pivot_row, int from, int n) const {
    for (int j = from / WARP * WARP + threadIdx.x; j < n; j += WARP) row[j] -= factor * pivot_row[j];
  }
};

template <bool inverse>
__device__ void eliminate(const Scratch& scratch, int n, const Block& block) {
  double* const matrix = scratch.matrix;
  double* const factors = scratch.factors;
  const int64_t stride = scratch.stride;
  for (int k = 0; k < n; k++) {
    const Pivot pivot = block.largest(scratch, k, n);
    double* const target = matrix + k * stride;
    double* const source = matrix + pivot.row * stride;
    if (block.first()) {
      scratch.pivots.values[k] = pivot.value;
      scratch.pivots.swaps[k] = pivot.row;
    }
    if (pivot.value == 0) {  // the column is zero from row k on: singular, nothing to eliminate
      block.sync();
      continue;
    }
    for (int j = block.index(); j < n; j += block.size()) {
      if (j == k) {
        const double displaced = target[k];
        target[k] = 1 / pivot.value;
        if (pivot.row != k) factors[pivot.row] = displaced;
      } else {
        if (j != pivot.row) factors[j] = matrix[j * stride + k];
        const double value = source[j];
        source[j] = target[j];
        target[j] = value / pivot.value;
      }
    }
    block.sync();
    const double reciprocal = target[k];
    for (int i = block.row(inverse ? 0 : k + 1); i < n; i += block.rows()) {
      if (i == k) continue;
      const double factor = factors[i];
      block.subtract(matrix + i * stride, factor, target, inverse ? 0 : k + 1, n);
      if (inverse && block.owns_column(k)) matrix[i * stride + k] = -factor * reciprocal;
    }
    block.sync();
  }
}

__host__ __device__ inline int64_t padded(int64_t n) { return n | 1; }  // odd: a column meets every bank

__host__ __device__ inline int64_t vectors_bytes(int64_t n) { return n * (2 * sizeof(double) + 2 * sizeof(int)); }

__host__ __device__ inline int64_t matrix_bytes(int64_t n) { return n * padded(n) * int64_t(sizeof(double)); }

// Block m works on matrix first_block + m. Matrices beyond `resident` rows and columns do not fit in shared memory and
// live in `spill`, at their own offsets (so unpadded).
template <typename T>
__global__ void invert_kernel(const T* matrices, Runs runs, int first_block, T* log_abs_det, T* sign, T* inverse,
                              double* spill, int resident) {
  extern __shared__ double memory[];
  __shared__ Pivot pivot;
  const int m = first_block + int(blockIdx.x);
  int r = 0;
  while (m >= runs.run[r].first + runs.run[r].count) r++;
  const int n = runs.run[r].n;
  const int64_t offset = runs.run[r].offset + int64_t(m - runs.run[r].first) * n * n;
  const bool fits = n <= resident;

  Scratch scratch;
  scratch.stride = fits ? padded(n) : n;
  scratch.matrix = fits ? memory : spill + offset;
  scratch.factors = fits ? memory + n * scratch.stride : memory;
  scratch.pivots.values = scratch.factors + n;
  scratch.pivots.swaps = reinterpret_cast<int*>(scratch.pivots.values + n);
  int* const order = scratch.pivots.swaps + n;

  const Block block{&pivot};
  for (int i = block.row(0); i < n; i += block.rows())
    for (int j = threadIdx.x; j < n; j += WARP)
      scratch.matrix[i * scratch.stride + j] = double(matrices[offset + int64_t(i) * n + j]);
  block.sync();
  if (inverse == nullptr)
    eliminate<false>(scratch, n, block);
  else
    eliminate<true>(scratch, n, block);

  __shared__ bool singular;
  if (block.first()) {
    const Determinant result = determinant(scratch.pivots, n);
    log_abs_det[m] = T(result.log_abs);
    sign[m] = T(result.sign);
    singular = result.sign == 0;
    undo_exchanges(scratch.pivots.swaps, n, order);
  }
  block.sync();
  if (inverse == nullptr) return;
  for (int i = block.row(0); i < n; i += block.rows())
    for (int j = threadIdx.x; j < n; j += WARP)
      inverse[offset + int64_t(i) * n + j] = singular ? T(NAN) : T(scratch.matrix[i * scratch.stride + order[j]]);
}

void check(cudaError_t status) { STD_TORCH_CHECK(status == cudaSuccess, "lu_inverse: ", cudaGetErrorString(status)); }

struct Plan {
  Runs runs{};
  int matrices = 0, largest = 0;
};

// Consecutive matrices of one size make a run. More than MAX_RUNS runs take another launch.
std::vector<Plan> plans_of(const std::vector<int64_t>& sizes, int64_t elements) {
  std::vector<Plan> plans(1);
  int64_t offset = 0;
  for (size_t m = 0; m < sizes.size(); m++) {
    STD_TORCH_CHECK(sizes[m] > 0, "lu_inverse: sizes must be positive; got ", sizes[m], ".");
    const int n = int(sizes[m]);
    Runs* runs = &plans.back().runs;
    if (runs->count == 0 || runs->run[runs->count - 1].n != n) {
      if (runs->count == MAX_RUNS) runs = &plans.emplace_back().runs;
      runs->run[runs->count++] = {offset, n, int(m), 0};
    }
    runs->run[runs->count - 1].count++;
    plans.back().matrices++;
    plans.back().largest = std::max(plans.back().largest, n);
    offset += int64_t(n) * n;
  }
  STD_TORCH_CHECK(offset == elements, "lu_inverse: matrices must have ", offset,
                  " elements, the sum of squares of sizes; got ", elements, ".");
  return plans;
}

template <typename T>
void launch(const Plan& plan, const T* matrices, T* log_abs_det, T* sign, T* inverse, double* spill, int resident,
            cudaStream_t stream) {
  const int64_t shared = plan.largest <= resident
                             ? matrix_bytes(plan.largest) + vectors_bytes(plan.largest)
                             : std::max(matrix_bytes(resident) + vectors_bytes(resident), vectors_bytes(plan.largest));
  check(cudaFuncSetAttribute(invert_kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared)));
  const dim3 threads(WARP, plan.largest <= 16 ? 4 : plan.largest <= 64 ? 8 : 16);
  invert_kernel<T><<<plan.matrices, threads, size_t(shared), stream>>>(matrices, plan.runs, plan.runs.run[0].first,
                                                                       log_abs_det, sign, inverse, spill, resident);
  check(cudaGetLastError());
}

std::tuple<Tensor, Tensor, Tensor> lu_inverse_cuda(Tensor matrices, std::vector<int64_t> sizes, bool with_inverse) {
  const int device = matrices.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  int available = 0;
  check(cudaDeviceGetAttribute(&available, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  available -= 256;  // static shared memory
  int resident = 1;
  while (matrix_bytes(resident + 1) + vectors_bytes(resident + 1) <= available) resident++;

  matrices = dense(matrices);
  const int64_t count = int64_t(sizes.size()), elements = matrices.numel();
  const int64_t largest = count == 0 ? 0 : *std::max_element(sizes.begin(), sizes.end());
  STD_TORCH_CHECK(vectors_bytes(largest) <= available, "lu_inverse: matrices up to ", available / vectors_bytes(1),
                  " x ", available / vectors_bytes(1), " fit on this device; got ", largest, " x ", largest, ".");
  Tensor log_abs_det = output(matrices, {count}), sign = output(matrices, {count});
  Tensor inverse = output(matrices, {with_inverse ? elements : 0});
  const std::vector<Plan> plans = plans_of(sizes, elements);
  if (count == 0) return {log_abs_det, sign, inverse};
  const bool spills = largest > resident;
  Tensor spill = torch::stable::new_empty(matrices, {spills ? elements : 0}, ScalarType::Double);

  const auto run = [&](auto type) {
    using T = decltype(type);
    for (const Plan& plan : plans)
      launch<T>(plan, data<T>(matrices), data<T>(log_abs_det), data<T>(sign), with_inverse ? data<T>(inverse) : nullptr,
                data<double>(spill), resident, static_cast<cudaStream_t>(stream));
  };
  if (matrices.scalar_type() == ScalarType::Double)
    run(double{});
  else
    run(float{});
  return {log_abs_det, sign, inverse};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(genkern, CUDA, m) { m.impl("lu_inverse", TORCH_BOX(&lu_inverse_cuda)); }

}  // namespace genkern::invertible_conv1x1
