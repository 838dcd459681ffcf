#pragma once
// y = softmax((l + g) / T) over the classes of logits [samples, panels, V, inner], g = -ln(-ln u) of uniform noise;
// hard: the one-hot vector of the largest instead, with the derivative of the soft one.
//   dl = y (dy - sum dy y) / T
// Jang et al. 2017 (arXiv:1611.01144), eq. 2; Maddison et al. 2017 (arXiv:1611.00712).

#include "../../common/math.h"

namespace genkern::gumbel_softmax {

GENKERN_HD float ln(float x) { return log_normal(x); }
GENKERN_HD double ln(double x) { return std::log(x); }

template <typename A>
GENKERN_HD A perturbed(A logit, A u, A inverse_temperature) {
  return (logit - ln(-ln(u))) * inverse_temperature;
}

struct Call {
  int64_t panels, classes, inner, sample_offset;
  uint64_t key;
  double temperature;
  bool hard;
  const void* logits;
  const void* grad;  // of y, in the backward pass
  void* out;         // y, or the gradient of the logits
  int64_t elements() const { return panels * classes * inner; }
};

// Samples [begin, end). T is the storage type.
template <typename T>
void forward(const Call& call, int64_t begin, int64_t end);
template <typename T>
void backward(const Call& call, int64_t begin, int64_t end);

}  // namespace genkern::gumbel_softmax
