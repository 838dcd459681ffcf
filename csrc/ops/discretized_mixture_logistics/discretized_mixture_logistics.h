#pragma once
// Discretised mixture of logistics: -log sum_k pi_k prod_c [sigma(p) - sigma(m)], (p, m) = e^-s (v - mean +- D / 2),
//   log(sigma(p) - sigma(m)) = log sigma(p) + log sigma(-m) + log(1 - e^-(p - m)).
// Salimans et al. 2017 (arXiv:1701.05517), eq. 1-3. Parameters are planes of sites: K logits, then for each channel
// K means, K log-scales and, for three channels, K coefficients.

#include "../../common/decay.h"

namespace genkern::discretized_mixture_logistics {

struct Shape {
  int64_t batch, sites, mixtures, channels;  // channels: 1 or 3
  int64_t planes() const { return mixtures * (channels == 1 ? 3 : 10); }
  int64_t tiles() const { return (sites + TILE - 1) / TILE; }
  static constexpr int64_t TILE = 128;  // sites at a time
};

struct Levels {
  int64_t count;
  double low, step, min_log_scale;
  bool open_edges;
};

enum class Integer { uint8, int16, int32, int64 };

struct Pixels {
  const void* data;
  Integer dtype;
};

// e^s and e^-s, which share all but the last steps; |s| <= 60.
template <typename A>
struct Powers {
  A up, down;
};
GENKERN_HD Powers<float> powers(float s) {
  const float rounded = s * 1.44269504f + 12582912.0f, n = rounded - 12582912.0f;  // 1.5 * 2^23: n is an integer
  const float f = (s * 1.44269504f - n) + s * 1.925963033e-8f;                     // |f| <= 1/2, also where s is large
  const uint32_t shift = bit_cast<uint32_t>(rounded) << 23;
  const float z = f * f;
  const float even = ((1.5469731962e-4f * z + 9.6180256030e-3f) * z + 2.4022651214e-1f) * z + 1.0f;
  const float odd = f * ((1.3390867351e-3f * z + 5.5503571043e-2f) * z + 6.9314718803e-1f);
  return {bit_cast<float>(0x3f800000u + shift) * (even + odd), bit_cast<float>(0x3f800000u - shift) * (even - odd)};
}
GENKERN_HD Powers<double> powers(double s) { return {std::exp(s), std::exp(-s)}; }

GENKERN_HD float log_positive(float x) { return log_normal(x); }
GENKERN_HD double log_positive(double x) { return std::log(x); }

template <typename A>
struct Constants {
  A low, step, log_step, half_step, inverse_step, min_log_scale, last;
  bool open;
  explicit Constants(const Levels& levels)
      : low(A(levels.low)),
        step(A(levels.step)),
        log_step(A(std::log(levels.step))),
        half_step(A(levels.step / 2)),
        inverse_step(A(1 / levels.step)),
        min_log_scale(A(levels.min_log_scale)),
        last(A(levels.count - 1)),
        open(levels.open_edges) {}
};

// One sub-pixel under one component: log p = linear + log(ratio), and with `slopes` its derivatives in the mean and in
// the log-scale.
template <typename A>
struct SubPixel {
  A linear, ratio, mean, log_scale;
};

// By symmetry, with a = e^-s |v - mean| and h = e^-s D / 2, E = e^-a and F = e^-h,
//   sigma(a + h) - sigma(a - h) = (1 - F^2) E / [(F + E) (1 + F E)],
// three exponentials and no cancellation. An end level keeps one of the two factors: sigma(h - a) = E / (F + E) where
// it lies beyond the mean, and sigma(h + a) = 1 / (1 + F E) where the mean lies beyond it. edge: 0, or -1 and 1 for the
// lowest and the highest level, where edges are open.
template <bool slopes, typename A>
GENKERN_INLINE SubPixel<A> sub_pixel(A centred, A raw, A edge, const Constants<A>& c) {
  const bool bound = raw < c.min_log_scale;
  const A s = bound ? c.min_log_scale : raw;
  const Powers<A> scale = powers(s > A(60) ? A(60) : s);
  A a = scale.down * absolute(centred), h = scale.down * c.half_step;
  const A wide = A(2) * h > A(1) ? A(2) * h : A(1);
  // Where both are large, F E and F^2 are nothing beside 1, and E / (F + E) depends on a - h alone.
  constexpr A TOP = sizeof(A) == 4 ? A(10) : A(20);
  const A lesser = a < h ? a : h, excess = lesser > TOP ? lesser - TOP : A(0);
  const A near_a = a - excess;
  const A E = decay(near_a).power;
  const Decay<A> f = decay(h - excess);
  const A F = f.power, outer = F + E, inner = A(1) + F * E;
  // (1 - F^2) / min(2h, 1), from 0.63 to 1; 1 / (2h) = e^s / D
  const A narrow = scale.up * c.inverse_step;
  const A width = -f.minus_one * (A(1) + F) * (narrow > A(1) ? narrow : A(1));
  const bool middle = edge == A(0), beyond = edge * centred > A(0), within = !(middle | beyond);
  const A log_width = c.log_step - s;
  SubPixel<A> result{};
  result.linear = (middle ? (log_width < A(0) ? log_width : A(0)) : A(0)) - (within ? A(0) : near_a);
  if constexpr (!slopes) {
    result.ratio = (middle ? width : A(1)) / ((within ? A(1) : outer) * (beyond ? A(1) : inner));
  } else {
    const A inverse = A(1) / (outer * inner * width), by_both = inverse * width;
    result.ratio = (middle ? width : A(1)) * by_both * (within ? outer : A(1)) * (beyond ? inner : A(1));
    const A left = within ? A(0) : F * inner * by_both;       // F / (F + E) = sigma(a - h)
    const A right = beyond ? A(0) : F * E * outer * by_both;  // F E / (1 + F E) = sigma(-a - h)
    const A slope = right - left;                             // in a; in h: right + left + 2 F^2 / (1 - F^2)
    result.mean = (centred < A(0) ? scale.down : -scale.down) * slope;
    const A rest = middle ? F * F * wide * (inverse * (outer * inner)) : A(0);
    result.log_scale = bound ? A(0) : -(a * slope + h * (right + left) + rest);
  }
  return result;
}

// Tiles [begin, end) of all samples. T is the storage type of the parameters.
template <typename T>
void forward(const Shape& shape, const Levels& levels, const void* params, Pixels x, void* nll, int64_t begin,
             int64_t end);
template <typename T>
void backward(const Shape& shape, const Levels& levels, const void* grad_nll, const void* params, Pixels x,
              void* grad_params, int64_t begin, int64_t end);
// Draws levels; noise is [B, 1 + C, sites]. A is float or double.
template <typename A>
void sample(const Shape& shape, const Levels& levels, double temperature, const A* params, const A* noise, void* x,
            Integer dtype, int64_t begin, int64_t end);

}  // namespace genkern::discretized_mixture_logistics
