#pragma once
// A draw z = m + e^(v/2) n of a diagonal Gaussian, n standard normal, and its divergence from a prior N(m', e^v'):
//   KL = 1/2 sum d^2 e^-v' + (e^(v - v') - 1) - (v - v'),  d = m - m'     (unit prior: m' = v' = 0)
// Above a log-variance (or a difference of two) of CEILING the exponentials go on as their tangents: nothing overflows,
// and the slopes keep their signs.

#include "../../common/math.h"

namespace genkern::reparameterize {

constexpr double CEILING = 60;
constexpr double FLOOR = -87;  // what is below cannot be seen beside anything else: e^-87 is the least normal float32

// 2^n and e^r - 1 of x = n ln 2 + r, for x up to CEILING; a second bound above would cost a quarter of the loops' time.
struct Parts {
  float power, rest;
};
GENKERN_HD Parts parts(float x) {
  int n;
  const float r = reduce_exp(x, float(FLOOR), INFINITY, &n);
  return {bit_cast<float>(uint32_t(n + 127) << 23), exp_tail(r) * r * r + r};
}

GENKERN_HD float bounded_exp(float x) {
  const Parts p = parts(x);
  return p.power * p.rest + p.power;
}
GENKERN_HD float bounded_expm1(float x) {
  const Parts p = parts(x);
  return p.power * p.rest + (p.power - 1.0f);
}
GENKERN_HD double bounded_exp(double x) { return std::exp(x); }
GENKERN_HD double bounded_expm1(double x) { return std::expm1(x); }

template <typename A>
GENKERN_HD A at_most(A x, A ceiling) {
  return x < ceiling ? x : ceiling;  // also of NaN, which comes back by the tangent
}

template <typename A>
struct Exponential {
  A value, slope;
};

template <typename A>
GENKERN_HD Exponential<A> exponential(A x) {
  const A b = at_most(x, A(CEILING)), slope = bounded_exp(b);
  return {slope + slope * (x - b), slope};
}

// e^x - 1; the slope, too, is less 1.
template <typename A>
GENKERN_HD Exponential<A> exponential_m1(A x) {
  const A b = at_most(x, A(CEILING)), slope = bounded_expm1(b);
  return {slope + (slope + A(1)) * (x - b), slope};
}

// e^(v/2) and e^v - 1 = h (h + 2) with h = e^(v/2) - 1: one exponential for both, exact near v = 0 too.
template <typename A>
struct Spread {
  Exponential<A> std, variance_m1;
};

GENKERN_HD void both(float x, float* exp, float* expm1) {
  const Parts p = parts(x);
  const float rest = p.power * p.rest;
  *exp = rest + p.power, *expm1 = rest + (p.power - 1.0f);
}
GENKERN_HD void both(double x, double* exp, double* expm1) { *exp = std::exp(x), *expm1 = std::expm1(x); }

template <typename A>
GENKERN_HD Spread<A> spread(A logvar) {
  const A half = A(0.5) * logvar, b = at_most(half, A(0.5 * CEILING)), excess = half - b;
  A std, h;
  both(b, &std, &h);
  const A variance_m1 = h * (h + A(2));
  return {{std + std * excess, std}, {variance_m1 + (variance_m1 + A(1)) * (A(2) * excess), variance_m1}};
}

// z, and the divergence.
template <typename A>
struct Draw {
  A z, kl;
};

template <typename A>
GENKERN_HD Draw<A> draw(A mean, A logvar, A noise) {
  const Spread<A> s = spread(logvar);
  return {mean + s.std.value * noise, A(0.5) * (mean * mean + (s.variance_m1.value - logvar))};
}

template <typename A>
GENKERN_HD Draw<A> draw(A mean, A logvar, A noise, A prior_mean, A prior_logvar) {
  const A d = mean - prior_mean, r = logvar - prior_logvar;
  const A kl = A(0.5) * (d * d * exponential(-prior_logvar).value + (exponential_m1(r).value - r));
  return {mean + spread(logvar).std.value * noise, kl};
}

template <typename A>
struct Gradients {
  A mean, logvar, prior_mean, prior_logvar;
};

template <typename A>
GENKERN_HD Gradients<A> gradients(A gz, A gk, A mean, A logvar, A noise) {
  const Spread<A> s = spread(logvar);
  return {gz + gk * mean, A(0.5) * (gz * (s.std.slope * noise) + gk * s.variance_m1.slope), A(0), A(0)};
}

template <typename A>
GENKERN_HD Gradients<A> gradients(A gz, A gk, A mean, A logvar, A noise, A prior_mean, A prior_logvar) {
  const A d = mean - prior_mean;
  const A ratio = gk * exponential_m1(logvar - prior_logvar).slope;
  const Exponential<A> precision = exponential(-prior_logvar);
  const A pull = gk * d * precision.value;
  return {gz + pull, A(0.5) * (gz * (spread(logvar).std.slope * noise) + ratio), -pull,
          A(-0.5) * (ratio + gk * d * d * precision.slope)};
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
  const void *grad_z = nullptr, *grad_kl = nullptr;  // contiguous
  void *grad_mean = nullptr, *grad_logvar = nullptr, *grad_prior_mean = nullptr, *grad_prior_logvar = nullptr;
};

// Samples [begin, end). T is the storage type.
template <typename T>
void forward(const Forward& call, int64_t begin, int64_t end);
template <typename T>
void backward(const Backward& call, int64_t begin, int64_t end);

}  // namespace genkern::reparameterize
