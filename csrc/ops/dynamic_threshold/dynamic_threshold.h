#pragma once
// The quantile of the magnitudes of each sample, found by selection: magnitudes are ordered as their bits are, so one
// pass counts how many share their leading bits, and only those next to the quantile are looked at again.

#include <cstdint>

#include "../../common/dtype.h"

namespace genkern::dynamic_threshold {

struct Quantile {
  int64_t elements, below;  // of a sample; the lower order statistic, counted from 0
  double weight, lowest, highest;
  const void* x;    // storage type
  void* threshold;  // arithmetic type
};

// Samples [begin, end).
template <typename T>
void run(const Quantile& call, int64_t begin, int64_t end);

}  // namespace genkern::dynamic_threshold
