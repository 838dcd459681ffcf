#include <algorithm>
#include <memory>
#include <vector>

#include "lu.h"

namespace genkern::invertible_conv1x1 {
namespace {

// One cache line, a vector or a few of whatever the machine has. Rows are padded to whole ones.
constexpr int LANES = 8;
typedef double Vector __attribute__((vector_size(LANES * sizeof(double))));

struct Scratch {
  Vector* matrix;   // [n, width]
  int64_t width;    // in vectors
  double* factors;  // [n, LANES], f of the last few steps
  Pivots pivots;

  GENKERN_INLINE Vector* row(int64_t i) const { return matrix + i * width; }
  GENKERN_INLINE double& at(int64_t i, int64_t j) const { return reinterpret_cast<double*>(row(i))[j]; }
};

// The steps of one panel, that is of one vector of columns, done in these columns only. Whole rows are exchanged, and
// with each row go the factors by which the rest of it still has to be corrected.
template <bool inverse>
GENKERN_INLINE void eliminate_panel(const Scratch& scratch, int n, int panel) {
  const int begin = panel * LANES, end = std::min(n, begin + LANES);
  double* const factors = scratch.factors;
  std::fill_n(factors, n * LANES, 0.0);
  for (int k = begin; k < end; k++) {
    int row = k;
    double value = scratch.at(k, k);
    for (int i = k + 1; i < n; i++) {
      const double candidate = scratch.at(i, k);
      const bool better = exceeds(candidate, value);
      value = better ? candidate : value;
      row = better ? i : row;
    }
    scratch.pivots.values[k] = value;
    scratch.pivots.swaps[k] = row;
    if (value == 0) continue;  // the column is zero from row k on: singular, nothing to eliminate
    if (row != k) {
      std::swap_ranges(scratch.row(k), scratch.row(k) + scratch.width, scratch.row(row));
      std::swap_ranges(factors + k * LANES, factors + (k + 1) * LANES, factors + row * LANES);
    }
    const int lane = k - begin;
    Vector keep = Vector{} + 1.0;  // 0 in column k, where w_ik gives way to -f / u_kk
    keep[lane] = 0;
    Vector pivot_row = scratch.row(k)[panel] / value;
    pivot_row[lane] = 1 / value;
    scratch.row(k)[panel] = pivot_row;
    for (int i = inverse ? 0 : k + 1; i < n; i++) {
      const double factor = i == k ? 0 : scratch.at(i, k);
      factors[i * LANES + lane] = factor;
      Vector& target = scratch.row(i)[panel];
      target = i == k ? target : target * keep - factor * pivot_row;
    }
  }
}

// The same steps in one other vector of columns: first r of each step, then all the rows at once, each of them read
// and written once.
template <bool inverse>
GENKERN_INLINE void apply_panel(const Scratch& scratch, int n, int panel, int column) {
  const int begin = panel * LANES, end = std::min(n, begin + LANES);
  const double* const factors = scratch.factors;
  Vector rows[LANES] = {};
  for (int k = begin; k < end; k++) {
    Vector value = scratch.row(k)[column];
    for (int step = begin; step < k; step++) value -= factors[k * LANES + step - begin] * rows[step - begin];
    const double pivot = scratch.pivots.values[k];
    rows[k - begin] = pivot == 0 ? value : value / pivot;
  }
  for (int k = begin; k < end; k++) {
    Vector value = rows[k - begin];
    for (int step = k + 1; inverse && step < end; step++)
      value -= factors[k * LANES + step - begin] * rows[step - begin];
    scratch.row(k)[column] = value;
  }
  for (int i = inverse && begin > 0 ? 0 : end; i < n; i = i + 1 == begin ? end : i + 1) {
    Vector value = scratch.row(i)[column];
    for (int lane = 0; lane < LANES; lane++) value -= factors[i * LANES + lane] * rows[lane];
    scratch.row(i)[column] = value;
  }
}

template <bool inverse>
GENKERN_INLINE void eliminate(const Scratch& scratch, int n) {
  for (int panel = 0; panel < scratch.width; panel++) {
    eliminate_panel<inverse>(scratch, n, panel);
    for (int column = inverse ? 0 : panel + 1; column < scratch.width; column++)
      if (column != panel) apply_panel<inverse>(scratch, n, panel, column);
  }
}

template <typename T>
GENKERN_INLINE void invert_one(const Call<T>& call, int64_t m, const Scratch& scratch, int* order) {
  const int n = int(call.sizes[m]);
  const T* const from = call.matrices + call.offsets[m];
  for (int i = 0; i < n; i++) {
    scratch.row(i)[scratch.width - 1] = Vector{};
    for (int j = 0; j < n; j++) scratch.at(i, j) = double(from[int64_t(i) * n + j]);
  }
  if (call.inverse == nullptr)
    eliminate<false>(scratch, n);
  else
    eliminate<true>(scratch, n);

  const Determinant result = determinant(scratch.pivots, n);
  call.log_abs_det[m] = T(result.log_abs);
  call.sign[m] = T(result.sign);
  if (call.inverse == nullptr) return;
  T* const to = call.inverse + call.offsets[m];
  if (result.sign == 0) return void(std::fill_n(to, int64_t(n) * n, T(NAN)));
  undo_exchanges(scratch.pivots.swaps, n, order);
  for (int i = 0; i < n; i++)
    for (int j = 0; j < n; j++) to[int64_t(i) * n + j] = T(scratch.at(i, order[j]));
}

template <typename T>
GENKERN_INLINE void invert_range(const Call<T>& call, int64_t begin, int64_t end) {
  if (begin == end) return;
  const int64_t largest = *std::max_element(call.sizes + begin, call.sizes + end);
  const int64_t widest = (largest + LANES - 1) / LANES;
  const std::unique_ptr<Vector[]> memory(new Vector[size_t(largest * (widest + 1) + widest)]);
  std::vector<int> indices(size_t(2 * largest));
  for (int64_t m = begin; m < end; m++) {
    const int64_t n = call.sizes[m], width = (n + LANES - 1) / LANES;
    Vector* const factors = memory.get() + n * width;
    Vector* const values = factors + n;
    invert_one(
        call, m,
        {memory.get(), width, reinterpret_cast<double*>(factors), {reinterpret_cast<double*>(values), indices.data()}},
        indices.data() + n);
  }
}

GENKERN_CLONES void invert_float(const Call<float>& call, int64_t begin, int64_t end) {
  invert_range(call, begin, end);
}
GENKERN_CLONES void invert_double(const Call<double>& call, int64_t begin, int64_t end) {
  invert_range(call, begin, end);
}

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
