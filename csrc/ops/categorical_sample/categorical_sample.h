#pragma once
// Draws of a class i = min {j : sum_{l <= j} w_l > u sum w}, w = e^(z / T) for the k largest z, from logits
// [outer, V, inner]; and log softmax(z)_i. Of equal logits the first counts as the larger one.

#include "../../common/math.h"

namespace genkern::categorical_sample {

struct Call {
  int64_t classes, inner, columns;  // columns: outer * inner
  double temperature;
  int64_t top_k;  // 0: all
  const void* logits;
  const void* noise;
  int64_t* index;
  void* log_prob;
  static constexpr int64_t WIDTH = 16;  // columns at a time
};

// Columns [begin, end). T is the storage type of the logits.
template <typename T>
void sample(const Call& call, int64_t begin, int64_t end);

}  // namespace genkern::categorical_sample
