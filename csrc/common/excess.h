#pragma once
// e^d, and e^d - 1 - d, exact in relative terms also for tiny d: what divergences of Gaussians are made of.

#include "math.h"

namespace genkern {

template <typename A>
struct Exponential {
  A power, excess;
};

GENKERN_HD Exponential<float> exponential(float d) {
  int n;
  const float r = reduce_exp(d, -86.0f, 88.0f, &n), scale = power_of_two(n);
  const float tail = exp_tail(r) * r * r, power = scale * (tail + r + 1.0f);
  return {power, n == 0 ? tail : power - 1.0f - d};
}
GENKERN_HD Exponential<double> exponential(double d) { return {std::exp(d), std::expm1(d) - d}; }

}  // namespace genkern
