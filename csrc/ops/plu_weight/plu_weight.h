#pragma once
// The weight of a 1x1 convolution from its LU factors, with an activation normalisation (scale e^a, shift b) folded in:
//   M = L (U + diag(sign e^s)),   W_i = M_{p_i},   weight = W diag(e^a),   shift = W b,   log|det| = sum s + sum a.
// With G = d/dW = g_weight diag(e^a) + g_shift b', rows put back in the order of M:
//   g_L = tril(G V', -1),   g_V = triu(L' G)   for V = U + diag(sign e^s),   g_s = diag(g_V) sign e^s + g_log_det.
// Kingma & Dhariwal 2018 (arXiv:1807.03039), eq. 10-11. Everything is small, and done in float64.

#include <cstdint>
#include <vector>

#include "../../common/dtype.h"

namespace genkern::plu_weight {

// Copies in float64: matrices [n, n], vectors [n].
struct Factors {
  int64_t n;
  const int64_t* p;
  std::vector<double> lower, upper, scale, bias;  // unit lower; upper with its diagonal; e^a
  double log_abs_det;

  template <typename T>
  Factors(int64_t n, const int64_t* p, const T* lower, const T* upper, const T* log_s, const T* sign_s,
          const T* log_scale, const T* bias);
};

struct Weight {
  std::vector<double> product;  // M
  explicit Weight(const Factors& factors);
};

struct Gradients {
  std::vector<double> lower, upper, log_s, log_scale, bias;
  Gradients(const Factors& factors, const std::vector<double>& weight, const std::vector<double>& shift,
            double log_abs_det);
};

}  // namespace genkern::plu_weight
