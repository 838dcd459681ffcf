#pragma once
// Integer levels to [0, 1) under uniform noise u, and back:
//   y = (x + u) / L,  log|det J| = -D ln L;      x = floor(L y)
// and with alpha into logits:
//   z = ln p - ln(1 - p),  p = alpha + (1 - 2 alpha) y,  log|det J| += sum ln(1 - 2 alpha) - ln p - ln(1 - p)
// Level x owns the floating-point numbers in [x / L, (x + 1) / L), both ends rounded: y never leaves them, and
// quantisation looks for them, so that it gives x back exactly whatever the noise.
// Dinh et al. 2017 (arXiv:1605.08803), section 4.1, for the logits.

#include <limits>

#include "../../common/math.h"

namespace genkern::dequantize {

GENKERN_HD float below(float positive) { return bit_cast<float>(bit_cast<uint32_t>(positive) - 1); }
GENKERN_HD double below(double positive) { return bit_cast<double>(bit_cast<uint64_t>(positive) - 1); }
GENKERN_HD float ln(float x) { return log_normal(x); }
GENKERN_HD double ln(double x) { return std::log(x); }

// Levels outside [0, L) have no y.
template <typename A>
GENKERN_HD A or_nan(bool valid, A value) {
  return valid ? value : std::numeric_limits<A>::quiet_NaN();
}

template <typename A>
GENKERN_HD A dequantized(A x, A u, A levels) {
  const A y = (x + u) / levels, most = below((x + A(1)) / levels);
  return y < most ? y : most;
}

template <typename A>
GENKERN_HD A quantized(A y, A levels) {
  A x = y * levels;
  x = x > A(0) ? x : A(0);  // also of NaN
  x = x < levels - A(1) ? x : levels - A(1);
  x = A(int32_t(x));
  const A down = y < x / levels ? A(1) : A(0), up = y >= (x + A(1)) / levels ? A(1) : A(0);
  x += up - down;
  x = x > A(0) ? x : A(0);
  return x < levels - A(1) ? x : levels - A(1);
}

// The logit of the squeezed y, and -ln p - ln(1 - p).
template <typename A>
struct Logit {
  A z, term;
};

// y keeps `margin` from the ends of its level: more than what the way to logits and back loses.
template <typename A>
GENKERN_HD Logit<A> logit(A x, A y, A levels, A alpha, A margin) {
  const A least = x / levels + margin, most = (x + A(1)) / levels - margin;
  y = y > least ? y : least;
  y = y < most ? y : most;
  const A p = ln(alpha + (A(1) - A(2) * alpha) * y);
  const A q = ln(alpha + (A(1) - A(2) * alpha) * (A(1) - y));
  return {p - q, -(p + q)};
}

template <typename A>
GENKERN_HD A inverse_logit(A z, A alpha) {
  const A e = exp(-absolute(z)), small = e / (A(1) + e);
  return ((z < A(0) ? small : A(1) - small) - alpha) / (A(1) - A(2) * alpha);
}

enum class Integer : int { uint8, int16, int32, int64 };

struct Dequantize {
  int64_t elements;  // of a sample
  int64_t levels;
  double alpha, margin;  // alpha < 0: no logits
  uint64_t key;
  int64_t sample_offset;
  Integer type;
  const void* x;
  void* y;
  void* log_det;
};

struct Quantize {
  int64_t levels;
  double alpha;
  Integer type;
  const void* y;
  void* x;
};

// Samples [begin, end). T is the storage type of y.
template <typename T>
void dequantize(const Dequantize& call, int64_t begin, int64_t end);
// Elements [begin, end).
template <typename T>
void quantize(const Quantize& call, int64_t begin, int64_t end);

}  // namespace genkern::dequantize
