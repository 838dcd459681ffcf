#pragma once
// An affine map of each channel: y = e^s (x + before) + after, or its inverse x = e^-s (y - after) - before;
//   log|det J| = sites * sum s.
// Kingma & Dhariwal 2018 (arXiv:1807.03039), section 3.1. Both directions are the one map
//   out = (in + center) * f + offset,   with gradients   f sum g   and   f sum g (in + center)   for each channel.

#include <cmath>

#include "../../common/channels.h"
#include "../../common/dtype.h"

namespace genkern::actnorm {

// f = e^s as the product of two factors, because e^100 alone is infinite in float32 where f * x need not be.
template <typename A>
struct Factors {
  A mantissa, power;
};

template <typename A>
Factors<A> factors(double log_scale) {
  const double f = std::exp(log_scale);
  if (std::is_same_v<A, double> || !std::isfinite(f)) return {A(f), A(1)};
  int n;
  const double mantissa = std::frexp(f, &n);
  const int half = std::clamp(n, -126, 126);
  return {A(std::ldexp(mantissa, n - half)), A(std::ldexp(1.0, half))};
}

// What the loops read, one entry for each parameter index of `Channels`.
template <typename A>
struct Parameters {
  std::vector<A> center, mantissa, power, offset;

  template <typename F>  // F: channel -> {center, log of f, offset}
  Parameters(const Channels& shape, const F& of_channel)
      : center(shape.parameters()), mantissa(center), power(center), offset(center) {
    std::vector<A> once[4];
    for (auto& values : once) values.resize(shape.channels);
    for (int64_t c = 0; c < shape.channels; c++) {
      const auto [before, log_scale, after] = of_channel(c);
      const Factors<A> f = factors<A>(log_scale);
      once[0][c] = A(before), once[1][c] = f.mantissa, once[2][c] = f.power, once[3][c] = A(after);
    }
    shape.each_channel(0, shape.parameters(), [&](int64_t p, int64_t c) {
      center[p] = once[0][c], mantissa[p] = once[1][c], power[p] = once[2][c], offset[p] = once[3][c];
    });
  }
};

// y = (x + center) * f + offset, over units [begin, end). T is the storage type.
template <typename T>
void apply(const Channels& shape, const Parameters<arithmetic_t<T>>& parameters, const void* x, void* y, int64_t begin,
           int64_t end);

// grad_x = f * grad_y where grad_x is not null, and partial sums of grad_y and grad_y * (x + center):
// `partial` is [slots, C, 2], zeros at the start.
template <typename T>
void reduce(const Channels& shape, const Parameters<arithmetic_t<T>>& parameters, const void* grad_y, const void* x,
            void* grad_x, double* partial, int64_t begin, int64_t end);

// [slots, C, 2] -> [C, 2]
inline std::vector<double> total_of(const Channels& shape, const std::vector<double>& partial) {
  const int64_t row = 2 * shape.channels;
  std::vector<double> sums(row);
  for (int64_t slot = 0; slot < shape.slots(); slot++)
    for (int64_t i = 0; i < row; i++) sums[i] += partial[slot * row + i];
  return sums;
}

}  // namespace genkern::actnorm
