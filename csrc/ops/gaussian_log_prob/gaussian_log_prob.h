#pragma once
// Log-density of a diagonal Gaussian, summed over each sample:
//   ln N(x) = sum -ln(2 pi) / 2 - s - r^2 / 2,  r = (x - m) e^-s
// -s stops at 88 (float64: 709), so that e^-s is finite and gives no NaN where x = m.

#include <type_traits>

#include "../../common/math.h"

namespace genkern::gaussian_log_prob {

template <typename A>
GENKERN_HD A inverse_std(A log_std) {
  constexpr A lowest = std::is_same_v<A, double> ? A(-709) : A(-88);
  return exp(-(log_std < lowest ? lowest : log_std));
}

// ln N(x) without its constant.
template <typename A>
GENKERN_HD A term(A x, A mean, A log_std) {
  const A r = (x - mean) * inverse_std(log_std);
  return A(-0.5) * r * r - log_std;
}

// g times the derivatives; g comes first in every product, so that a gradient of zero stays zero beside overflow.
template <typename A>
struct Gradients {
  A x, mean, log_std;
};

template <typename A>
GENKERN_HD Gradients<A> gradients(A g, A x, A mean, A log_std) {
  const A e = inverse_std(log_std);
  const A d = x - mean;
  const A scaled = g * d * e;  // g r
  return {-scaled * e, scaled * e, scaled * d * e - g};
}

// Samples of `elements` contiguous numbers each; a parameter that all samples share has a stride of 0.
struct Forward {
  int64_t elements, mean_stride, log_std_stride;
  const void *x, *mean, *log_std;  // mean and log_std are null for the standard normal
  void* log_prob;
};

struct Backward {
  int64_t elements, mean_stride, log_std_stride;
  const void *grad, *x, *mean, *log_std;
  void *grad_x, *grad_mean, *grad_log_std;
};

// Samples [begin, end). T is the storage type.
template <typename T>
void forward(const Forward& call, int64_t begin, int64_t end);
template <typename T>
void backward(const Backward& call, int64_t begin, int64_t end);

}  // namespace genkern::gaussian_log_prob
