#pragma once
// Noise for ops that draw it as they go: a stage of elements at a time, which stays in the first cache.

#include <cstdint>

#include "random.h"

namespace genkern {

constexpr int64_t STAGE = 1024;  // elements; a multiple of the four of a counter

// How many samples of so many elements fill a stage.
inline int64_t samples_of_stage(int64_t elements) { return elements <= STAGE ? STAGE / elements : 1; }

// Noise of elements [first, first + n) of `samples` samples of `elements` each, packed; `first` is a multiple of 4, and
// the range ends at a multiple of 4 or with the sample. Several samples are drawn whole.
template <typename Draw, typename A>
void draw_stage(uint64_t key, int64_t sample, int64_t samples, int64_t elements, int64_t first, int64_t n, A* out) {
  const int64_t end = first + n == elements ? samples * quads_of(elements) : (first + n) / 4;
  A* const origin = reinterpret_cast<A*>(reinterpret_cast<uintptr_t>(out) - uintptr_t(first) * sizeof(A));
  fill<Draw>(origin, key, sample, elements, first / 4, end);
}

}  // namespace genkern
