#pragma once
// Elementary functions that vectorise: polynomials in float32 (within about one ulp), libm in float64.
// No lookup, no branch, no errno; NaN stays NaN and infinities come out where they should.

#include <cmath>

#include "dtype.h"

namespace genkern {

// 2^n for n in [-126, 128], of which the last is infinite; any bits for the n of a NaN, without signed overflow.
GENKERN_HD float power_of_two(int n) { return bit_cast<float>(uint32_t(n + 127) << 23); }

// value 2^n for n in [-252, 254], in two factors so that subnormal and infinite results are right.
GENKERN_HD float scale_by_power_of_two(float value, int n) {
  const int half = n >> 1;
  return value * power_of_two(half) * power_of_two(n - half);
}

// x = n ln2 + r, |r| <= ln2 / 2; the argument is clamped to where the result is 0 or infinite.
GENKERN_HD float reduce_exp(float x, float lowest, float highest, int* n) {
  x = x < lowest ? lowest : x;
  x = x > highest ? highest : x;
  const float rounded = x * 1.44269504088896341f + 12582912.0f;  // 1.5 * 2^23: the sum is an integer
  *n = bit_cast<int>(rounded) - 0x4b400000;
  const float k = rounded - 12582912.0f;
  return (x - k * 0.693359375f) + k * 2.12194440e-4f;
}

// (e^r - 1 - r) / r^2
GENKERN_HD float exp_tail(float r) {
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  return p * r + 5.0000001201e-1f;
}

GENKERN_HD float exp(float x) {
  int n;
  const float r = reduce_exp(x, -104.0f, 89.0f, &n);
  const float y = scale_by_power_of_two(exp_tail(r) * r * r + r + 1.0f, n);
  return x == x ? y : x;
}

// e^x - 1 for x <= 0, without cancellation near 0.
GENKERN_HD float expm1_nonpositive(float x) {
  int n;
  const float r = reduce_exp(x, -40.0f, 1.0f, &n);
  const float power = power_of_two(n);
  const float y = power * (exp_tail(r) * r * r + r) + (power - 1.0f);
  return x == x ? y : x;
}

// ln x for finite x >= 2^-126
GENKERN_HD float log_normal(float x) {
  const uint32_t shifted = bit_cast<uint32_t>(x) - 0x3f3504f3u;  // mantissa in [sqrt(1/2), sqrt(2))
  const float k = float(bit_cast<int>(shifted) >> 23);
  const float f = bit_cast<float>((shifted & 0x007fffffu) + 0x3f3504f3u) - 1.0f;
  const float z = f * f;
  float p = 7.0376836292e-2f;
  p = p * f - 1.1514610310e-1f;
  p = p * f + 1.1676998740e-1f;
  p = p * f - 1.2420140846e-1f;
  p = p * f + 1.4249322787e-1f;
  p = p * f - 1.6668057665e-1f;
  p = p * f + 2.0000714765e-1f;
  p = p * f - 2.4999993993e-1f;
  p = p * f + 3.3333331174e-1f;
  float y = f * z * p;
  y += k * -2.12194440e-4f;
  y += -0.5f * z;
  return (f + y) + k * 0.693359375f;
}

// ln(1 + q) for q >= 0, exact in relative terms also for tiny q.
GENKERN_HD float log1p_nonnegative(float q) {
  const float u = 1.0f + q;
  const float lost = q < 1.0f ? q - (u - 1.0f) : 1.0f - (u - q);
  return log_normal(u) + lost / u;
}

GENKERN_HD double exp(double x) { return std::exp(x); }
GENKERN_HD double expm1_nonpositive(double x) { return std::expm1(x); }
GENKERN_HD double log1p_nonnegative(double q) { return std::log1p(q); }

GENKERN_HD float absolute(float x) { return bit_cast<float>(bit_cast<uint32_t>(x) & 0x7fffffffu); }
GENKERN_HD double absolute(double x) { return std::fabs(x); }

// tanh x from expm1(-2|x|), accurate also near 0.
template <typename T>
GENKERN_HD T tanh(T x) {
  const T m = expm1_nonpositive(T(-2) * absolute(x));
  const T t = -m / (T(2) + m);
  return x < T(0) ? -t : t;
}

}  // namespace genkern
