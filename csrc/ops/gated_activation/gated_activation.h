#pragma once
// The gated activation: y = tanh(a) sigmoid(g), (a, g) = x + link + bias + condition.
// van den Oord et al. 2016 (arXiv:1606.05328), eq. 2.

#include <algorithm>

#include "../../common/math.h"

namespace genkern::gated_activation {

// e^-x and e^-x - 1 of one argument x >= 0, both to about an ulp of 1; beyond 87 float32 stays at e^-87.
template <typename A>
struct Decay {
  A power, minus_one;
};

GENKERN_INLINE Decay<float> decay(float x) {
  x = x > 87.0f ? 87.0f : x;                             // NaN stays
  const float rounded = x * -1.44269504f + 12582912.0f;  // 1.5 * 2^23: the sum is an integer
  const float f = x * -1.44269504f - (rounded - 12582912.0f);
  const float scale = bit_cast<float>((bit_cast<int>(rounded) << 23) + 0x3f800000);
  float p = 1.5461563553e-4f;  // (2^f - 1) / f, |f| <= 1/2
  p = p * f + 1.3390982251e-3f;
  p = p * f + 9.6180563794e-3f;
  p = p * f + 5.5503568886e-2f;
  p = p * f + 2.4022650924e-1f;
  p = p * f + 6.9314718807e-1f;
  const float rest = scale * (p * f);
  return {rest + scale, rest + (scale - 1.0f)};
}
GENKERN_INLINE Decay<double> decay(double x) { return {std::exp(-x), std::expm1(-x)}; }

template <typename A>
GENKERN_INLINE A gate(A a, A g) {
  const A m = decay(A(2) * absolute(a)).minus_one;  // tanh |a| = -m / (2 + m)
  const A e = decay(absolute(g)).power;
  const A y = m * (g < A(0) ? e : A(1)) / ((A(2) + m) * (A(1) + e));
  return a < A(0) ? y : -y;
}

// dy/da and dy/dg
template <typename A>
struct Slopes {
  A a, g;
};

template <typename A>
GENKERN_INLINE Slopes<A> slopes(A a, A g) {
  const Decay<A> d = decay(A(2) * absolute(a));
  const A e = decay(absolute(g)).power;
  const A u = A(1) / (A(2) + d.minus_one), v = A(1) / (A(1) + e);  // 1 / (1 + e^-2|a|), 1 / (1 + e^-|g|)
  const A t = -d.minus_one * u, square = t * t;
  const A slope = square < A(0.5) ? A(1) - square : A(4) * d.power * u * u;  // whichever does not cancel
  const A q = g < A(0) ? e * v : v;
  return {q * slope, (a < A(0) ? -t : t) * (e * v) * v};  // sigmoid' = e / (1 + e)^2, on both sides
}

// How [B, 2C, *] lies in memory, and how it is cut into units of work, by the shape alone.
//   runs     channels first: `sites` neighbours share the terms of a channel;
//   columns  channels last: rows of channels, one for each of `sites`.
struct Shape {
  bool columns = false;
  int64_t batch = 0, channels = 0, sites = 0;
  int64_t depth = 1, width = 1;  // of a unit: sites and channels
  int64_t deep = 0, wide = 0;    // how many there are of each in a sample

  Shape(bool columns, int64_t batch, int64_t channels, int64_t sites)
      : columns(columns), batch(batch), channels(channels), sites(sites) {
    if (batch * channels * sites == 0) return;
    depth = std::min<int64_t>(sites, columns ? 64 : 4096);
    width = std::min<int64_t>(channels, columns ? 512 : std::max<int64_t>(16384 / depth, 1));
    deep = (sites + depth - 1) / depth, wide = (channels + width - 1) / width;
  }
  int64_t units() const { return batch * deep * wide; }
};

struct Terms {  // each may be null
  const void* bias;
  const void* condition;
};

// Units [begin, end); link may be null. T is the storage type.
template <typename T>
void forward(const Shape& shape, const Terms& terms, const void* x, const void* link, void* y, int64_t begin,
             int64_t end);

// The gradient of x, which is that of link; and, unless `sums` is null, its sums over the sites of each unit:
// [B, deep, 2C].
template <typename T>
void backward(const Shape& shape, const Terms& terms, const void* grad_y, const void* x, const void* link, void* grad_x,
              void* grad_link, double* sums, int64_t begin, int64_t end);

}  // namespace genkern::gated_activation
