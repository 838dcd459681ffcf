#pragma once
// A draw z = m + e^(v/2) n of a diagonal Gaussian, n standard normal, and its divergence from a prior N(m', e^v'):
//   KL = 1/2 sum d^2 e^-v' + (e^(v - v') - 1) - (v - v'),  d = m - m'     (unit prior: m' = v' = 0)
// Above CEILING the exponential goes on as its tangent: nothing overflows, and the slope keeps its sign.

#include "../../common/math.h"

namespace genkern::reparameterize {

constexpr double CEILING = 60;

template <typename A>
struct Exponential {
  A value, slope;
};

template <typename A>
GENKERN_HD A bounded(A x) {
  return x < A(CEILING) ? x : A(CEILING);  // also of NaN, which comes back by the tangent
}

template <typename A>
GENKERN_HD Exponential<A> exponential(A x) {
  const A b = bounded(x), slope = exp(b);
  return {slope + slope * (x - b), slope};
}

GENKERN_HD float expm1(float x) {  // x <= 88
  int n;
  const float r = reduce_exp(x, -40.0f, 88.0f, &n);
  const float power = bit_cast<float>((n + 127) << 23);
  return power * (exp_tail(r) * r * r + r) + (power - 1.0f);
}
GENKERN_HD double expm1(double x) { return std::expm1(x); }

// e^x - 1; the slope, too, is less 1.
template <typename A>
GENKERN_HD Exponential<A> exponential_m1(A x) {
  const A b = bounded(x), slope = expm1(b);
  return {slope + (slope + A(1)) * (x - b), slope};
}

template <typename A>
GENKERN_HD A sampled(A mean, A logvar, A noise) {
  return mean + exponential(A(0.5) * logvar).value * noise;
}

template <typename A>
GENKERN_HD A divergence(A mean, A logvar) {
  return A(0.5) * (mean * mean + (exponential_m1(logvar).value - logvar));
}

template <typename A>
GENKERN_HD A divergence(A mean, A logvar, A prior_mean, A prior_logvar) {
  const A d = mean - prior_mean, r = logvar - prior_logvar;
  return A(0.5) * (d * d * exponential(-prior_logvar).value + (exponential_m1(r).value - r));
}

template <typename A>
struct Gradients {
  A mean, logvar, prior_mean, prior_logvar;
};

template <typename A>
GENKERN_HD Gradients<A> gradients(A gz, A gk, A mean, A logvar, A noise) {
  const A spread = A(0.5) * exponential(A(0.5) * logvar).slope * noise;
  return {gz + gk * mean, gz * spread + gk * (A(0.5) * exponential_m1(logvar).slope), A(0), A(0)};
}

template <typename A>
GENKERN_HD Gradients<A> gradients(A gz, A gk, A mean, A logvar, A noise, A prior_mean, A prior_logvar) {
  const A spread = A(0.5) * exponential(A(0.5) * logvar).slope * noise;
  const A d = mean - prior_mean;
  const A ratio = gk * (A(0.5) * exponential_m1(logvar - prior_logvar).slope);
  const Exponential<A> precision = exponential(-prior_logvar);
  const A pull = gk * d * precision.value;
  return {gz + pull, gz * spread + ratio, -pull, -ratio - A(0.5) * (gk * d * d * precision.slope)};
}

// Samples of `elements` contiguous numbers, with a stride between samples for each input; the prior is null for the
// unit one. The divergence is one number for each sample, or for each element.
struct Call {
  int64_t elements, sample_offset;
  uint64_t key;
  bool per_element;
  const void *mean, *logvar, *prior_mean, *prior_logvar;
  int64_t mean_stride, logvar_stride, prior_mean_stride, prior_logvar_stride;
};

struct Forward : Call {
  void *z, *kl;
};

struct Backward : Call {
  const void *grad_z, *grad_kl;  // contiguous
  void *grad_mean, *grad_logvar, *grad_prior_mean, *grad_prior_logvar;
};

// Samples [begin, end). T is the storage type.
template <typename T>
void forward(const Forward& call, int64_t begin, int64_t end);
template <typename T>
void backward(const Backward& call, int64_t begin, int64_t end);

}  // namespace genkern::reparameterize
