#pragma once
// Loops over a stage of pixels in the arithmetic type; cpu.cpp and vlb.cpp bring their data to it.

#include "../../common/reduce.h"
#include "../random/staged.h"
#include "discretized_gaussian.h"

namespace genkern::discretized_gaussian {

// The sum of log-probabilities.
double sum_of_bins(Cdf cdf, const float* x, const float* mean, const float* log_std, int64_t n, int64_t levels);
double sum_of_bins(Cdf cdf, const double* x, const double* mean, const double* log_std, int64_t n, int64_t levels);
// Derivatives of each log-probability by its mean and its log_std.
void slopes_of_bins(Cdf cdf, const float* x, const float* mean, const float* log_std, int64_t n, int64_t levels,
                    float* by_mean, float* by_log_std);
void slopes_of_bins(Cdf cdf, const double* x, const double* mean, const double* log_std, int64_t n, int64_t levels,
                    double* by_mean, double* by_log_std);

template <typename T, typename A>
GENKERN_INLINE void widen_loop(const T* __restrict from, A* __restrict to, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) to[i] = load(from[i]);
}

template <typename T, typename A>
GENKERN_INLINE void store_loop(const A* __restrict from, T* __restrict to, int64_t n, A scale) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) to[i] = store<T>(scale * from[i]);
}

// n numbers of a tensor in the arithmetic type: the tensor itself, or a copy.
template <typename T, typename A = arithmetic_t<T>>
const A* widened(const void* tensor, int64_t at, int64_t n, A* copy) {
  const T* const from = static_cast<const T*>(tensor) + at;
  if constexpr (std::is_same_v<T, A>) {
    return from;
  } else {
    widen_loop(from, copy, n);
    return copy;
  }
}

}  // namespace genkern::discretized_gaussian
