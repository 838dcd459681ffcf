#pragma once
// An activation normalisation (e^s, b) in front of a 1x1 convolution, folded into its weight:
//   W' = W diag(e^s),   b' = W b   (or W' b, where the shift comes first),   log|det W'| = log|det W| + sum s.
// Their gradients, where the shift comes last and first:
//   g_W = g_W' diag(e^s) + g_b' b^T,      g_s = sum_i g_W' W' + g_log_det,              g_b = W^T g_b';
//   g_W = (g_W' + g_b' b^T) diag(e^s),    g_s = sum_i (g_W' + g_b' b^T) W' + g_log_det,  g_b = W'^T g_b'.

#include <cstdint>

#include "../../common/dtype.h"

namespace genkern::invertible_conv1x1 {

template <typename T>
struct Fold {
  int64_t n;
  bool shift_first;
  const T *weight, *log_scale, *bias;
  T *folded, *shift;
};

// The sum of log_scale.
template <typename T>
double fold(const Fold<T>& call);

template <typename T>
struct FoldGradients {
  int64_t n;
  bool shift_first;
  const T *weight, *log_scale, *bias;
  const T *grad_folded, *grad_shift;
  double grad_log_abs_det;
  T *of_weight, *of_log_scale, *of_bias;
};

template <typename T>
void fold_gradients(const FoldGradients<T>& call);

}  // namespace genkern::invertible_conv1x1
