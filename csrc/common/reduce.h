#pragma once
// Sums in lanes: fixed in order, whatever the vector width, and pairwise at the end.

#include <algorithm>
#include <cstdint>

#include "macros.h"

namespace genkern {

constexpr int LANES = 32;

template <typename A>
GENKERN_INLINE A sum_of_lanes(A* lanes) {
  for (int half = LANES / 2; half > 0; half /= 2)
    for (int j = 0; j < half; j++) lanes[j] += lanes[j + half];
  return lanes[0];
}

// The sum of f(i) over [0, n): short stretches in lanes, those in float64. f may store an element i, too.
template <typename A, typename F>
GENKERN_INLINE double sum_over(int64_t n, const F& f) {
  constexpr int64_t stretch = 64 * LANES;
  double total = 0;
  for (int64_t first = 0; first < n; first += stretch) {
    A lanes[LANES] = {};
    const int64_t last = std::min(first + stretch, n);
    int64_t i = first;
    for (; i + LANES <= last; i += LANES) {
#pragma omp simd
      for (int j = 0; j < LANES; j++) lanes[j] += f(i + j);
    }
#pragma omp simd
    for (int64_t j = i; j < last; j++) lanes[j - i] += f(j);
    total += sum_of_lanes(lanes);
  }
  return total;
}

}  // namespace genkern
