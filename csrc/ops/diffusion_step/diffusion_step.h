#pragma once
// One step of a diffusion sampler, from a row of coefficients (a, b, c, d, e, f, s, l, m) for each sample:
//   o  = r (o_u + w (o_c - o_u)),  r = phi std(o_c) / std(o_u + w (o_c - o_u)) + 1 - phi        guidance
//   x0 = clip(a x + b o),  or clamp(a x + b o, -t, t) / t with a threshold t for each sample
//   x' = c x + d x0 + e o + f previous + s exp(l + m v) z
// where z is the noise of a key, drawn here and never stored. Where f or s is 0 nothing is read or drawn for it.

#include <cstdint>

#include "../../common/math.h"

namespace genkern::diffusion_step {

constexpr int COLUMNS = 9;

// The coefficients of a sample.
template <typename A>
struct Row {
  A x0_of_x, x0_of_output, x, x0, output, previous, noise, log_std, log_std_slope;
  A low, high, scale;            // of x0: bounds, then a factor
  A conditional, unconditional;  // weights of the two outputs
};

// NaN stays NaN.
template <typename A>
GENKERN_HD A clamped(A value, A low, A high) {
  value = value < low ? low : value;
  return value > high ? high : value;
}

struct Step {
  int64_t batch, elements;                                                 // samples, and elements of a sample
  int64_t rows;                                                            // of coefficients
  const void *x, *model_output, *unconditional, *previous, *log_variance;  // storage type; null where absent
  const void *coefficients, *threshold;                                    // arithmetic type
  const int64_t *key, *step;
  int64_t keys, steps;  // how many there are: 0, 1 or batch
  double guidance, rescale, low, high;
  int64_t sample_offset;
  void *out, *x0;        // storage type; x0 null where not wanted, out may be x
  const double* ratios;  // r of each sample, where rescale is not 0
};

constexpr int64_t SPAN = 16384;  // elements of a unit of work
inline int64_t spans(const Step& call) { return (call.elements + SPAN - 1) / SPAN; }

// Units [begin, end) of batch * spans(call).
template <typename T>
void run(const Step& call, int64_t begin, int64_t end);
// std(o_c) / std(o) of samples [begin, end).
template <typename T>
void spread_ratios(const Step& call, double* ratios, int64_t begin, int64_t end);

}  // namespace genkern::diffusion_step
