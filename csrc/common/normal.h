#pragma once
// Random words to uniform and standard normal numbers. Every step is one that IEEE 754 rounds in one way only
// (+, -, *, sqrt, conversions; no contraction to fma, no library function), so that C++, CUDA, Triton, numpy and
// torch give the same bits. Compile with -ffp-contract=off, nvcc -fmad=false, Triton enable_fp_fusion=False.

#include <cmath>

#include "dtype.h"
#include "philox.h"

namespace genkern {

// (0, 1): odd multiples of 2^-24, exact.
GENKERN_HD float uniform(uint32_t word) { return (float(int32_t(word >> 9)) + 0.5f) * 0x1p-23f; }

// ln u for u in [2^-126, 1]: u = 2^k (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)); about one ulp.
GENKERN_HD float exact_log(float u) {
  const uint32_t shifted = bit_cast<uint32_t>(u) - 0x3f3504f3u;
  const float k = float(int32_t(shifted) >> 23);
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
  return (f + (p * f - 0.5f) * z) + k * 0.69314718056f;
}

struct Pair {
  float a, b;
};

// Box-Muller: a radius from one word, a point of the unit circle from another.
//   u = (radius / 2 + 1/2) 2^-31 in [2^-32, 1], so that the tail reaches 6.66 standard deviations;
//   angle: 32 bits = bit 31 (negative cosine), bit 30 (swap), and 30 bits for t in [-pi/4, pi/4).
GENKERN_HD Pair box_muller(uint32_t radius, uint32_t angle) {
  const float u = (float(int32_t(radius >> 1)) + 0.5f) * 0x1p-31f;
  const float r = sqrtf(-2.0f * exact_log(u));
  const float t = float(int32_t(angle << 2)) * 3.6572951981e-10f;  // pi/2 * 2^-32
  const float z = t * t;
  const float sine = ((-1.9515295891e-4f * z + 8.3321608736e-3f) * z - 1.6666654611e-1f) * z * t + t;
  const float quartic = (2.443315711809948e-5f * z - 1.388731625493765e-3f) * z + 4.166664568298827e-2f;
  const float cosine = quartic * (z * z) - 0.5f * z + 1.0f;
  const float side = bit_cast<float>(bit_cast<uint32_t>(cosine) ^ (angle & 0x80000000u));
  const bool swap = (angle & 0x40000000u) != 0;
  return {r * (swap ? sine : side), r * (swap ? side : sine)};
}

}  // namespace genkern
