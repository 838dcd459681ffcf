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
  static constexpr int64_t TILE = 64;  // sites at a time
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

// e^-s for s >= -20; beyond 80, where float32 would go subnormal, it stays.
GENKERN_HD float inverse_scale(float s) {
  int n;
  const float r = reduce_exp(-s, -80.0f, 21.0f, &n);
  return bit_cast<float>((n + 127) << 23) * (exp_tail(r) * r * r + r + 1.0f);
}
GENKERN_HD double inverse_scale(double s) { return std::exp(-s); }

GENKERN_HD float log_positive(float x) { return log_normal(x); }
GENKERN_HD double log_positive(double x) { return std::log(x); }

// One sub-pixel under one component: log p = linear + log(numerator / denominator), and with `slopes` its
// derivatives in the mean and in the log-scale. low and high mark the end levels where edges are open.
template <typename A>
struct SubPixel {
  A linear, numerator, denominator, mean, log_scale;
};

template <bool slopes, typename A>
GENKERN_INLINE SubPixel<A> sub_pixel(A centred, A s, A min_log_scale, A step, A log_step, bool low, bool high) {
  const bool bound = s < min_log_scale;
  s = bound ? min_log_scale : s;
  const A inverse = inverse_scale(s);
  const A p = inverse * (centred + A(0.5) * step), m = inverse * (centred - A(0.5) * step), t = inverse * step;
  const A ep = decay(absolute(p)).power, em = decay(absolute(m)).power;
  const A width = t < A(1e-10) ? A(1e-10) : t;
  const Decay<A> et = decay(width);
  const bool middle = !(low | high);  // | and not ||: without branches
  SubPixel<A> result{};
  result.linear = (high | (p > A(0)) ? A(0) : p) - (low | (m < A(0)) ? A(0) : m) + (middle ? log_step - s : A(0));
  result.numerator = middle ? -et.minus_one : A(1);
  result.denominator = (middle ? width : A(1)) * (high ? A(1) : A(1) + ep) * (low ? A(1) : A(1) + em);
  if constexpr (slopes) {
    // d log sigma(p) / dp = sigma(-p), d log sigma(-m) / dm = -sigma(m)
    const A dp = high ? A(0) : (p > A(0) ? ep : A(1)) / (A(1) + ep);
    const A dm = low ? A(0) : (m > A(0) ? A(1) : em) / (A(1) + em);
    result.mean = -inverse * (dp - dm);
    const A dt = middle ? width * et.power / -et.minus_one : A(0);  // t / (e^t - 1)
    result.log_scale = bound ? A(0) : m * dm - p * dp - dt;
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
