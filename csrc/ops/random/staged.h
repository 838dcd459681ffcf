#pragma once
// Noise that a kernel uses and forgets: [samples, elements] is cut into stretches that stay in the first cache,
// either several whole samples or a part of one. The cuts depend on the shape alone, so that sums over stretches do
// not depend on the number of threads.

#include <algorithm>
#include <vector>

#include "random.h"

namespace genkern {

constexpr int64_t STAGE = 1024;  // elements at a time; a multiple of the four of a counter

// How many samples of so many elements fill a stage.
inline int64_t samples_of_stage(int64_t elements) { return elements <= STAGE ? STAGE / elements : 1; }

struct Stretch {
  int64_t sample, samples;  // several whole ones, or a part of one:
  int64_t first, count;     // elements of each, from the first
  int64_t size() const { return samples * count; }
};

struct Stages {
  int64_t batch, elements, together, parts;  // samples of a stretch, and stretches of a sample

  Stages(int64_t batch, int64_t elements)
      : batch(batch),
        elements(elements),
        together(std::max<int64_t>(STAGE / std::max<int64_t>(elements, 1), 1)),
        parts(std::max<int64_t>((elements + STAGE - 1) / STAGE, 1)) {}

  int64_t count() const { return (batch + together - 1) / together * parts; }
  Stretch stretch(int64_t i) const {
    const int64_t sample = i / parts * together, first = i % parts * STAGE;
    return {sample, std::min(together, batch - sample), first, std::min(STAGE, elements - first)};
  }
};

// Noise of elements [first, first + n) of `samples` samples of `elements` each, packed; `first` is a multiple of 4, and
// the range ends at a multiple of 4 or with the sample. Several samples are drawn whole.
template <typename Draw, typename A>
void draw_stage(uint64_t key, int64_t sample, int64_t samples, int64_t elements, int64_t first, int64_t n, A* out) {
  const int64_t end = first + n == elements ? samples * quads_of(elements) : (first + n) / 4;  // in quads
  A* const origin = reinterpret_cast<A*>(reinterpret_cast<uintptr_t>(out) - uintptr_t(first) * sizeof(A));
  fill<Draw>(origin, key, sample, elements, first / 4, end);
}

// The numbers of a stretch, one sample after the other.
template <typename Draw, typename A>
void draw_stretch(const Stretch& s, int64_t elements, uint64_t key, int64_t sample_offset, A* noise) {
  draw_stage<Draw>(key, sample_offset + s.sample, s.samples, elements, s.first, s.count, noise);
}

// Sums of the parts of each sample, in order: [batch, parts] -> [batch].
inline double sum_of_parts(const double* parts, int64_t sample, int64_t count) {
  double total = 0;
  for (int64_t i = 0; i < count; i++) total += parts[sample * count + i];
  return total;
}

}  // namespace genkern
