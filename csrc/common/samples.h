#pragma once
// Ops with a few sums over each sample [D] and elementwise work between them: LANES samples at a time, so that the
// scalar mathematics of a sample fills a vector whatever D is. A row stride of 0 shares one row among all samples.

#include <algorithm>
#include <vector>

#include "math.h"
#include "reduce.h"

namespace genkern {

constexpr int64_t NARROW = 16;     // below this many elements a row is too short for a vector: walk down the columns
constexpr int64_t PER_UNIT = 512;  // samples of a unit of work, whose sums stay together

GENKERN_HD float log_positive(float x) { return log_normal(x); }
GENKERN_HD double log_positive(double x) { return std::log(x); }
GENKERN_HD float root_of(float x) { return sqrtf(x); }
GENKERN_HD double root_of(double x) { return std::sqrt(x); }

// ln(1 + q) for q >= -1/2.
GENKERN_HD float log1p_bounded(float q) { return log1p_nonnegative(q); }
GENKERN_HD double log1p_bounded(double q) { return std::log1p(q); }

template <typename A>
GENKERN_HD A softplus(A x) {
  return (x > A(0) ? x : A(0)) + log1p_nonnegative(exp(-absolute(x)));
}

template <typename A>
GENKERN_HD A sigmoid(A x) {
  const A e = exp(-absolute(x)), big = A(1) / (A(1) + e);
  return x >= A(0) ? big : e * big;
}

template <typename A>
using Lanes = A[LANES];

// A number of elements, or a row stride, that the compiler knows: in the plane, rows of two interleave where rows of an
// unknown size are gathered.
template <int64_t N>
struct Known {
  constexpr operator int64_t() const { return N; }
};
template <typename Size>
constexpr bool is_known = false;
template <int64_t N>
constexpr bool is_known<Known<N>> = true;

// out[j] = sum over d of f(j, d), for j < count.
template <typename A, typename Size, typename F>
GENKERN_INLINE void sums(int64_t count, Size size, A* __restrict out, const F& f) {
  if constexpr (is_known<Size>) {
#pragma omp simd
    for (int64_t j = 0; j < count; j++) {
      A sum = f(j, 0);
      for (int64_t d = 1; d < size; d++) sum += f(j, d);
      out[j] = sum;
    }
  } else if (size < NARROW) {
    for (int64_t j = 0; j < count; j++) out[j] = A(0);
    for (int64_t d = 0; d < size; d++) {
#pragma omp simd
      for (int64_t j = 0; j < count; j++) out[j] += f(j, d);
    }
  } else {
    for (int64_t j = 0; j < count; j++) out[j] = A(sum_over<A>(size, [&](int64_t d) { return f(j, d); }));
  }
}

// f(j, d) for every element of `count` rows.
template <typename Size, typename F>
GENKERN_INLINE void each(int64_t count, Size size, const F& f) {
  if constexpr (is_known<Size>) {
#pragma omp simd
    for (int64_t j = 0; j < count; j++)
      for (int64_t d = 0; d < size; d++) f(j, d);
  } else if (size < NARROW) {
    for (int64_t d = 0; d < size; d++) {
#pragma omp simd
      for (int64_t j = 0; j < count; j++) f(j, d);
    }
  } else {
    for (int64_t j = 0; j < count; j++) {
#pragma omp simd
      for (int64_t d = 0; d < size; d++) f(j, d);
    }
  }
}

// total[d] += sum over j of f(j, d): the samples of one block in the arithmetic type, blocks in float64.
template <typename A, typename Size, typename F>
GENKERN_INLINE void column_sums(int64_t count, Size size, double* __restrict total, const F& f) {
  if (size < NARROW) {
    for (int64_t d = 0; d < size; d++) {
      Lanes<A> lanes = {};
#pragma omp simd
      for (int64_t j = 0; j < count; j++) lanes[j] = f(j, d);
      total[d] += sum_of_lanes(lanes);
    }
    return;
  }
  constexpr int64_t WIDTH = 256;
  for (int64_t first = 0; first < size; first += WIDTH) {
    const int64_t width = std::min(WIDTH, size - first);
    A columns[WIDTH] = {};
    for (int64_t j = 0; j < count; j++) {
#pragma omp simd
      for (int64_t d = 0; d < width; d++) columns[d] += f(j, first + d);
    }
    for (int64_t d = 0; d < width; d++) total[first + d] += columns[d];
  }
}

template <typename A>
GENKERN_INLINE double lane_sum(int64_t count, const A* values) {
  Lanes<A> lanes = {};
  for (int64_t j = 0; j < count; j++) lanes[j] = values[j];
  return sum_of_lanes(lanes);
}

inline int64_t units_of(int64_t batch) { return (batch + PER_UNIT - 1) / PER_UNIT; }

// Sums of all units, in order: [units, width] -> [width].
inline std::vector<double> total_of_units(const std::vector<double>& partial, int64_t width) {
  std::vector<double> total(width);
  for (size_t i = 0; i < partial.size(); i++) total[i % width] += partial[i];
  return total;
}

}  // namespace genkern
