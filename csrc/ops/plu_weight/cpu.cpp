#include <algorithm>
#include <cmath>

#include "plu_weight.h"

namespace genkern::plu_weight {
namespace {

// rows of `to` += L rows of `from`, for a unit lower triangle and rows that are zero left of the diagonal
GENKERN_CLONES void lower_times_upper(const double* lower, const double* upper, double* product, int64_t n) {
  for (int64_t r = 0; r < n; r++) {
    double* __restrict row = product + r * n;
    for (int64_t k = 0; k <= r; k++) {
      const double factor = lower[r * n + k];
      const double* __restrict from = upper + k * n;
#pragma omp simd
      for (int64_t j = k; j < n; j++) row[j] += factor * from[j];
    }
  }
}

// g_V = triu(L' G)
GENKERN_CLONES void transposed_lower_times(const double* lower, const double* grad, double* grad_upper, int64_t n) {
  for (int64_t r = 0; r < n; r++) {
    const double* __restrict from = grad + r * n;
    for (int64_t k = 0; k <= r; k++) {
      const double factor = lower[r * n + k];
      double* __restrict row = grad_upper + k * n;
#pragma omp simd
      for (int64_t j = k; j < n; j++) row[j] += factor * from[j];
    }
  }
}

// g_L = tril(G V', -1)
GENKERN_CLONES void times_transposed_upper(const double* grad, const double* upper, double* grad_lower, int64_t n) {
  for (int64_t r = 0; r < n; r++) {
    const double* row = grad + r * n;
    for (int64_t k = 0; k < r; k++) {
      const double* column = upper + k * n;
      double sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t j = k; j < n; j++) sum += row[j] * column[j];
      grad_lower[r * n + k] = sum;
    }
  }
}

}  // namespace

template <typename T>
Factors::Factors(int64_t n, const int64_t* p, const T* lower, const T* upper, const T* log_s, const T* sign_s,
                 const T* log_scale, const T* bias)
    : n(n), p(p), lower(n * n), upper(n * n), scale(n), bias(n), log_abs_det(0) {
  for (int64_t i = 0; i < n; i++) {
    for (int64_t j = 0; j < i; j++) this->lower[i * n + j] = load(lower[i * n + j]);
    for (int64_t j = i + 1; j < n; j++) this->upper[i * n + j] = load(upper[i * n + j]);
    this->lower[i * n + i] = 1;
    this->upper[i * n + i] = load(sign_s[i]) * std::exp(double(load(log_s[i])));
    scale[i] = std::exp(double(load(log_scale[i])));
    this->bias[i] = load(bias[i]);
    log_abs_det += double(load(log_s[i])) + double(load(log_scale[i]));
  }
}

Weight::Weight(const Factors& factors) : product(factors.n * factors.n) {
  lower_times_upper(factors.lower.data(), factors.upper.data(), product.data(), factors.n);
}

Gradients::Gradients(const Factors& factors, const std::vector<double>& grad_weight,
                     const std::vector<double>& grad_shift, double grad_log_abs_det)
    : lower(factors.n * factors.n), upper(lower), log_s(factors.n), log_scale(factors.n), bias(factors.n) {
  const int64_t n = factors.n;
  const Weight weight(factors);
  std::vector<double> grad(n * n);  // of M
  std::fill(log_scale.begin(), log_scale.end(), grad_log_abs_det);
  for (int64_t i = 0; i < n; i++) {
    const double* row = weight.product.data() + factors.p[i] * n;
    double* to = grad.data() + factors.p[i] * n;
    for (int64_t j = 0; j < n; j++) {
      const double g = grad_weight[i * n + j] * factors.scale[j];
      to[j] = g + grad_shift[i] * factors.bias[j];
      log_scale[j] += g * row[j];
      bias[j] += grad_shift[i] * row[j];
    }
  }
  times_transposed_upper(grad.data(), factors.upper.data(), lower.data(), n);
  transposed_lower_times(factors.lower.data(), grad.data(), upper.data(), n);
  for (int64_t k = 0; k < n; k++) {
    log_s[k] = upper[k * n + k] * factors.upper[k * n + k] + grad_log_abs_det;
    upper[k * n + k] = 0;
  }
}

#define GENKERN_INSTANTIATE(T)                                                                                       \
  template Factors::Factors(int64_t, const int64_t*, const T*, const T*, const T*, const T*, const T*, const T*);
GENKERN_INSTANTIATE(float)
GENKERN_INSTANTIATE(double)
GENKERN_INSTANTIATE(Half)
GENKERN_INSTANTIATE(BFloat16)

}  // namespace genkern::plu_weight
