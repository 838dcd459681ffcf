#pragma once
// Affine coupling: y = sigma * x + t on the active half of the channels, y = x on the passive half,
//   sigma = exp(l),  log|det J| = sum l,
//   l = s  |  bound * tanh(s / bound)  |  log sigmoid(s + 2)  |  0 (additive)
// Dinh et al. 2017 (arXiv:1605.08803) eq. 7-8; Kingma & Dhariwal 2018 (arXiv:1807.03039) for the sigmoid.

#include "../../common/math.h"

namespace genkern::affine_coupling {

enum class Scale : int { exp = 0, tanh = 1, sigmoid = 2, none = 3 };

// sigma, 1 / sigma, dl/ds, and l written as `linear - ln(1 + excess)` so that a block of elements
// shares one logarithm: prod (1 + excess) - 1 is what the loops accumulate.
template <typename T>
struct Scaling {
  T sigma, inverse, slope, linear, excess;
};

template <Scale scale, typename T>
GENKERN_HD Scaling<T> scaling(T s, T bound) {
  if constexpr (scale == Scale::exp) {
    return {exp(s), exp(-s), T(1), s, T(0)};
  } else if constexpr (scale == Scale::tanh) {
    const T t = tanh(s / bound);
    const T l = bound * t;
    return {exp(l), exp(-l), T(1) - t * t, l, T(0)};
  } else if constexpr (scale == Scale::sigmoid) {
    const T a = s + T(2);
    const T e = exp(-absolute(a));  // in (0, 1]
    const T d = T(1) + e;
    const T big = T(1) / d, small = e * big;
    const bool positive = a >= T(0);
    return {positive ? big : small, positive ? d : d / e, positive ? small : big, positive ? T(0) : a, e};
  } else {
    return {T(1), T(1), T(0), T(0), T(0)};
  }
}

// A raw scale whose sigma is exactly 1 and whose l and dl/ds are exactly 0: what padding and masks are filled with.
template <Scale scale, typename T>
constexpr T neutral = scale == Scale::sigmoid ? T(1000) : T(0);

// The rows that one sample is made of: `rows` runs of `length` contiguous elements. Channels first gives one
// long run (or one per channel when scale and shift alternate); channels last gives one run per pixel.
struct Shape {
  int64_t batch, rows, length;
  int64_t x_batch, x_row, x_active, x_passive;
  int64_t passive_rows, passive_length;  // the elements that pass unchanged
  int64_t p_batch, p_row, p_scale, p_shift;
};

struct Forward {
  Shape shape;
  Scale scale;
  bool inverse;
  double bound;
  const void* x;
  const void* params;
  const uint8_t* mask;  // one byte for each element of a sample, or null; nonzero passes unchanged
  void* y;
  void* log_det;
};

struct Backward {
  Shape shape;
  Scale scale;
  bool inverse;
  double bound;
  const void* grad_y;
  const void* grad_log_det;
  const void* x;
  const void* params;
  const uint8_t* mask;
  void* grad_x;
  void* grad_params;
};

// Samples [begin, end). T is the storage type.
template <typename T>
void forward(const Forward& call, int64_t begin, int64_t end);
template <typename T>
void backward(const Backward& call, int64_t begin, int64_t end);

}  // namespace genkern::affine_coupling
