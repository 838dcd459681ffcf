#pragma once
// One pixel drawn from a mixture of logistics by inverse cumulative functions: one uniform number chooses the
// component, one for each channel its value; a level conditions the next channel. Salimans et al. 2017, section 2.1.

#include "../../common/math.h"

namespace genkern::discretized_mixture_logistics {

template <typename A>
struct Draw {
  int64_t channels, mixtures;  // channels: 1 or 3
  A low, step, last, min_log_scale, temperature;
};

// Levels [C] by noise [1 + C]; of parameters and noise, the distance from one to the next.
template <typename A>
GENKERN_HD void draw_pixel(const Draw<A>& d, const A* params, int64_t stride, const A* noise, int64_t noise_stride,
                           A* level) {
  const int64_t K = d.mixtures, C = d.channels, block = (C == 1 ? 2 : 3) * K;
  A top = params[0], total = 0;
  int64_t chosen = 0;
  for (int64_t k = 1; k < K; k++)
    if (params[k * stride] > top) top = params[k * stride], chosen = k;
  if (d.temperature != A(0)) {
    const auto weight = [&](int64_t k) { return exp((params[k * stride] - top) / d.temperature); };
    for (int64_t k = 0; k < K; k++) total += weight(k);
    A cumulative = 0;
    const A threshold = noise[0] * total;
    for (chosen = 0; chosen < K - 1; chosen++)
      if ((cumulative += weight(chosen)) > threshold) break;
  }
  const auto parameter = [&](int64_t ch, int64_t kind) {
    return params[(K + ch * block + kind * K + chosen) * stride];
  };
  A value[3] = {};
  for (int64_t ch = 0; ch < C; ch++) {
    A mean = parameter(ch, 0);
    if (ch == 1) mean += tanh(parameter(0, 2)) * value[0];
    if (ch == 2) mean += tanh(parameter(1, 2)) * value[0] + tanh(parameter(2, 2)) * value[1];
    if (d.temperature != A(0)) {
      const A v = noise[(ch + 1) * noise_stride], raw = parameter(ch, 1);
      const A scale = exp(raw < d.min_log_scale ? d.min_log_scale : raw);
      mean += d.temperature * scale * (std::log(v) - std::log1p(-v));
    }
    const A place = (mean - d.low) / d.step, within = place < A(0) ? A(0) : place > d.last ? d.last : place;
    level[ch] = std::nearbyint(within);
    value[ch] = d.low + d.step * level[ch];
  }
}

// The same, compiled once for all that draw on a CPU: the same bits.
void draw(const Draw<float>& d, const float* params, int64_t stride, const float* noise, int64_t noise_stride,
          float* level);
void draw(const Draw<double>& d, const double* params, int64_t stride, const double* noise, int64_t noise_stride,
          double* level);

}  // namespace genkern::discretized_mixture_logistics
