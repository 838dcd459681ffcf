#pragma once
// Cached sampling from a stack of causal layers: one call for whole pictures.
//
//   row i:    what a layer needs from rows above i is computed for all its pixels, as products of matrices
//   pixel j:  what it needs from row i itself, from left to right; pass g of a pixel computes the channels of group g,
//             and draws sub-pixel g from a categorical by a uniform number

#include "../../common/math.h"
#include "program.h"

namespace genkern::causal_sample {

template <typename T>
struct Call {
  const Program* program;
  const T *weights, *conditions, *noise;  // [N], [B, M], [B, C, H, W]
  int32_t* x;                             // [B, C, H, W]
  const bool* free;                       // [H, W]
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
    case TANH: return tanh(a);
    case SIGMOID: return sigmoid(a);
    default: return a;
  }
}

}  // namespace genkern::causal_sample
