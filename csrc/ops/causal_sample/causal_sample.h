#pragma once
// Cached sampling from a stack of causal layers: one call for whole pictures.
//
//   row i:    what a layer needs from rows above i is computed for all its pixels, as products of matrices
//   pixel j:  what it needs from row i itself, from left to right; pass g of a pixel computes the channels of group g,
//             and draws sub-pixel g from a categorical by a uniform number; of a mixture of logistics, all at once

#include "../discretized_mixture_logistics/draw.h"
#include "program.h"

namespace genkern::causal_sample {

template <typename T>
struct Call {
  const Program* program;
  const T *weights, *conditions, *features, *noise;  // [N], [B, M], [B, H, W, F], [B, C (+ 1), H, W]
  int32_t* x;                                        // [B, C, H, W]
  const bool* free;                                  // [H, W]
  int64_t conditions_size, height, width, levels;
  T temperature;
};

// Fills pictures begin to end.
void sample(const Call<float>& call, int64_t begin, int64_t end);
void sample(const Call<double>& call, int64_t begin, int64_t end);

template <typename T>
GENKERN_HD T sigmoid(T x) {
  return T(1) / (T(1) + exp(-x));
}

template <typename T>
GENKERN_HD T apply(Kind kind, T a) {
  switch (kind) {
    case RELU: return a > T(0) ? a : T(0);
    case ELU: return a > T(0) ? a : expm1_nonpositive(a < T(0) ? a : T(0));
    case NEGATIVE_ELU: return a < T(0) ? -a : expm1_nonpositive(a > T(0) ? -a : T(0));
    case TANH: return tanh(a);
    case SIGMOID: return sigmoid(a);
    case SILU: return a * sigmoid(a);
    default: return a;
  }
}

// The level nearest to a quantile of values in [0, 1], less one half.
template <typename T>
GENKERN_HD int32_t nearest_level(T quantile, int64_t levels) {
  const T place = (quantile + T(0.5)) * T(levels - 1), last = T(levels - 1);
  return int32_t(std::nearbyint(place < T(0) ? T(0) : place > last ? last : place));
}

// How pixels in [-1, 1] are drawn from a mixture; the lowest log-scale is the default of the op that draws alone.
template <typename T>
GENKERN_HD discretized_mixture_logistics::Draw<T> mixture_of(int64_t sub_pixels, int64_t outputs, int64_t levels,
                                                             T temperature) {
  const int64_t mixtures = outputs / (sub_pixels == 1 ? 3 : 10);
  return {sub_pixels, mixtures, T(-1), T(2.0 / double(levels - 1)), T(levels - 1), T(-7), temperature};
}

}  // namespace genkern::causal_sample
