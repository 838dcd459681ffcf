#pragma once
// Noise that a kernel uses and forgets: [samples, elements] is cut into stretches that stay in the first cache,
// either several whole samples or a part of one. The cuts depend on the shape alone, so that sums over stretches do
// not depend on the number of threads.

#include <algorithm>
#include <vector>

#include "random.h"

namespace genkern {

constexpr int64_t STAGE = 1024;  // elements at a time

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

// The numbers of a stretch, one sample after the other.
template <typename Draw, typename A>
void draw_stretch(const Stretch& s, int64_t elements, uint64_t key, int64_t sample_offset, A* noise) {
  const int64_t end =
      s.first + s.count == elements ? s.samples * quads_of(elements) : (s.first + s.count) / 4;  // in quads
  A* const origin = reinterpret_cast<A*>(reinterpret_cast<uintptr_t>(noise) - uintptr_t(s.first) * sizeof(A));
  fill<Draw>(origin, key, sample_offset + s.sample, elements, s.first / 4, end);
}

// Sums of the parts of each sample, in order: [batch, parts] -> [batch].
inline double sum_of_parts(const double* parts, int64_t sample, int64_t count) {
  double total = 0;
  for (int64_t i = 0; i < count; i++) total += parts[sample * count + i];
  return total;
}

}  // namespace genkern
