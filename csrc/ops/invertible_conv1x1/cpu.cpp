#include <algorithm>
#include <memory>
#include <vector>

#include "lu.h"

namespace genkern::invertible_conv1x1 {
namespace {

constexpr int64_t LANES = 8;  // rows are padded to whole 64-byte vectors

struct Serial {
  GENKERN_INLINE bool first() const { return true; }
  GENKERN_INLINE int index() const { return 0; }
  GENKERN_INLINE int size() const { return 1; }
  GENKERN_INLINE int row(int from) const { return from; }
  GENKERN_INLINE int rows() const { return 1; }
  GENKERN_INLINE bool owns_column(int) const { return true; }
  GENKERN_INLINE void sync() const {}

  GENKERN_INLINE Pivot largest(const Scratch& scratch, int k, int n) const {
    Pivot pivot{k, scratch.matrix[k * scratch.stride + k]};
    for (int i = k + 1; i < n; i++) {
      const double value = scratch.matrix[i * scratch.stride + k];
      if (exceeds(value, pivot.value)) pivot = {i, value};
    }
    return pivot;
  }

  // Whole vectors: the padding and, without an inverse, a few entries that nobody reads again change too.
  GENKERN_INLINE void subtract(double* __restrict row, double factor, const double* __restrict pivot_row, int from,
                               int n) const {
    const int64_t end = (n + LANES - 1) / LANES * LANES;
#pragma omp simd
    for (int64_t j = from / LANES * LANES; j < end; j++) row[j] -= factor * pivot_row[j];
  }
};

template <typename T>
GENKERN_INLINE void invert_one(const Call<T>& call, int64_t m, const Scratch& scratch, int* order) {
  const int n = int(call.sizes[m]);
  const T* const from = call.matrices + call.offsets[m];
  for (int i = 0; i < n; i++) {
    double* const row = scratch.matrix + i * scratch.stride;
    for (int j = 0; j < n; j++) row[j] = double(from[int64_t(i) * n + j]);
    for (int64_t j = n; j < scratch.stride; j++) row[j] = 0;
  }
  if (call.inverse == nullptr) eliminate<false>(scratch, n, Serial());
  else eliminate<true>(scratch, n, Serial());

  const Determinant result = determinant(scratch, n);
  call.log_abs_det[m] = T(result.log_abs);
  call.sign[m] = T(result.sign);
  if (call.inverse == nullptr) return;
  T* const to = call.inverse + call.offsets[m];
  if (result.sign == 0) return void(std::fill_n(to, int64_t(n) * n, T(NAN)));
  undo_exchanges(scratch.swaps, n, order);
  for (int i = 0; i < n; i++) {
    const double* const row = scratch.matrix + i * scratch.stride;
    for (int j = 0; j < n; j++) to[int64_t(i) * n + j] = T(row[order[j]]);
  }
}

template <typename T>
GENKERN_INLINE void invert_range(const Call<T>& call, int64_t begin, int64_t end) {
  if (begin == end) return;
  const int64_t largest = *std::max_element(call.sizes + begin, call.sizes + end);
  const int64_t widest = (largest + LANES - 1) / LANES * LANES;
  std::vector<double> numbers(size_t(largest * widest + 2 * widest + LANES));
  std::vector<int> indices(size_t(2 * largest));
  void* start = numbers.data();
  size_t space = numbers.size() * sizeof(double);
  double* const aligned = static_cast<double*>(std::align(64, (numbers.size() - LANES) * sizeof(double), start, space));
  for (int64_t m = begin; m < end; m++) {
    const int64_t n = call.sizes[m], stride = (n + LANES - 1) / LANES * LANES;
    double* const factors = aligned + n * stride;
    invert_one(call, m, {aligned, stride, factors, factors + n, indices.data()}, indices.data() + n);
  }
}

GENKERN_CLONES void invert_float(const Call<float>& call, int64_t begin, int64_t end) { invert_range(call, begin, end); }
GENKERN_CLONES void invert_double(const Call<double>& call, int64_t begin, int64_t end) { invert_range(call, begin, end); }

}  // namespace

template <>
void invert(const Call<float>& call, int64_t begin, int64_t end) {
  invert_float(call, begin, end);
}
template <>
void invert(const Call<double>& call, int64_t begin, int64_t end) {
  invert_double(call, begin, end);
}

}  // namespace genkern::invertible_conv1x1
