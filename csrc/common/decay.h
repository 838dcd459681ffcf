#pragma once
// Decaying exponentials, for sigmoids and their kin: a fifth cheaper than exp, and e^-x - 1 comes with it.

#include "math.h"

namespace genkern {

// e^-x and e^-x - 1 of one argument x >= 0, both to about an ulp of 1; beyond 87 float32 stays at e^-87.
template <typename A>
struct Decay {
  A power, minus_one;
};

GENKERN_HD Decay<float> decay(float x) {
  x = x > 87.0f ? 87.0f : x;                             // NaN stays
  const float rounded = x * -1.44269504f + 12582912.0f;  // 1.5 * 2^23: the sum is an integer
  const float f = x * -1.44269504f - (rounded - 12582912.0f);
  const float scale = bit_cast<float>((bit_cast<uint32_t>(rounded) << 23) + 0x3f800000u);
  float p = 1.5461563553e-4f;  // (2^f - 1) / f, |f| <= 1/2
  p = p * f + 1.3390982251e-3f;
  p = p * f + 9.6180563794e-3f;
  p = p * f + 5.5503568886e-2f;
  p = p * f + 2.4022650924e-1f;
  p = p * f + 6.9314718807e-1f;
  const float rest = scale * (p * f);
  return {rest + scale, rest + (scale - 1.0f)};
}
GENKERN_HD Decay<double> decay(double x) { return {std::exp(-x), std::expm1(-x)}; }

}  // namespace genkern
