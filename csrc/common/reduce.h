#pragma once
// Sums in lanes: fixed in order, whatever the vector width, and pairwise at the end.

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

}  // namespace genkern
